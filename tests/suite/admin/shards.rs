//! The specs of shards, and taking shards from their holders.

use eventbox::admin::{self, ANY_REVISION, Operator, ShardChange, ShardSelector, ShardSpec, ShardState, ShardView};
use eventbox::{Error, Misuse};

use crate::support::{TestDb, TestEngine, on_every_engine};

fn ana<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    Operator::new(db.pool.clone(), "ana").because("a test")
}

fn labelled(team: &str) -> ShardSpec {
    let mut spec = ShardSpec::default();
    spec.labels.insert("team".to_owned(), team.to_owned());
    spec
}

async fn listed<B: TestEngine>(db: &TestDb<B>, shards: impl IntoIterator<Item = u8>) -> Vec<ShardView> {
    let ids = shards.into_iter().map(|shard| shard.to_string());
    let selector = ids.fold(ShardSelector::all(), |selector, id| selector.label("id", id));
    admin::list_shards(&db.pool, &selector).await.unwrap()
}

async fn revisions<B: TestEngine>(db: &TestDb<B>, shard: u8) -> (i64, i64) {
    let view = listed(db, [shard]).await.remove(0);
    (view.create_revision, view.mod_revision)
}

/// Lets a worker hold the first five shards, and lets shards 1 and 9 fail. No worker holds shard 9.
pub(crate) async fn assign_and_fail<B: TestEngine>(db: &TestDb<B>) {
    let (now, id) = match B::FOLDER {
        "postgres" => ("(extract(epoch FROM clock_timestamp()) * 1000000)::int8", "gen_random_uuid()"),
        _ => ("CAST(unixepoch('subsec') * 1000000 AS INTEGER)", "randomblob(16)"),
    };
    db.run(format_args!(
        "UPDATE eventbox_lease SET holder = {id}, generation = 1, expires_at_us = {now} + 60000000 WHERE shard < 5"
    ))
    .await;
    db.run(format_args!(
        "UPDATE eventbox_shard SET attempts = 10, failed_at_us = {now}, errors = 'refused' WHERE shard IN (1, 9)"
    ))
    .await;
}

/// Returns the shards that have a holder, and those that have failed.
async fn standing<B: TestEngine>(db: &TestDb<B>) -> (Vec<u8>, Vec<u8>) {
    let all = admin::list_shards(&db.pool, &ShardSelector::all()).await.unwrap();
    let of = |is: fn(&ShardView) -> bool| all.iter().filter(|view| is(view)).map(|view| view.shard).collect();
    (of(|view| view.holder.is_some()), of(|view| view.state == ShardState::Failed))
}

on_every_engine! {
    /// Case 12 of the acceptance cases: create, update and delete, each at the expected revision.
    async fn specs_are_created_updated_and_deleted(db) {
        let ana = ana(db);
        assert_eq!(revisions(db, 7).await, (0, 0));
        ana.apply_shards(&[ShardChange::upsert(7, labelled("ramp")).expecting(0)]).await.unwrap();
        assert_eq!(revisions(db, 7).await, (1, 1));
        let mut spec = labelled("gate");
        (spec.zone, spec.is_disabled) = (Some("eu-1".to_owned()), true);
        ana.apply_shards(&[ShardChange::upsert(7, spec.clone()).expecting(1)]).await.unwrap();
        assert_eq!(revisions(db, 7).await, (1, 2));
        assert_eq!(listed(db, [7]).await[0].spec, spec);
        ana.apply_shards(&[ShardChange::upsert(8, labelled("gate")).expecting(0)]).await.unwrap();
        assert_eq!(revisions(db, 8).await, (3, 3), "revisions grow over all shards");
        let gates = admin::list_shards(&db.pool, &ShardSelector::all().label("team", "gate")).await.unwrap();
        assert_eq!(gates.iter().map(|view| view.shard).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(ana.apply_shards(&[ShardChange::delete(7).expecting(2)]).await.unwrap().touched, 1);
        assert_eq!((revisions(db, 7).await, &listed(db, [7]).await[0].spec), ((0, 0), &ShardSpec::default()));
        assert_eq!(ana.apply_shards(&[ShardChange::delete(7)]).await.unwrap().touched, 0);
        ana.apply_shards(&[ShardChange::upsert(7, labelled("ramp")).expecting(0)]).await.unwrap();
        assert!(revisions(db, 7).await.1 > 3);
    }

    /// Case 12: a wrong revision fails and changes nothing, also no other shard of the call. −1 forces.
    async fn a_wrong_revision_changes_nothing(db) {
        let ana = ana(db);
        ana.apply_shards(&[ShardChange::upsert(7, labelled("ramp"))]).await.unwrap();
        for expected in [0, 2] {
            let changes = [
                ShardChange::upsert(3, labelled("gate")).expecting(0),
                ShardChange::upsert(7, labelled("gate")).expecting(expected),
            ];
            let error = ana.apply_shards(&changes).await.unwrap_err();
            assert!(matches!(error, Error::RevisionConflict { shard: 7, found: 1, .. }), "{error:?}");
            assert!(error.to_string().contains("shard 7 is at revision 1"), "{error}");
        }
        let late = ana.apply_shards(&[ShardChange::delete(3).expecting(1)]).await;
        assert!(matches!(late, Err(Error::RevisionConflict { shard: 3, expected: 1, found: 0, .. })), "{late:?}");
        assert_eq!((revisions(db, 3).await, revisions(db, 7).await), ((0, 0), (1, 1)));
        let forced = ShardChange::upsert(7, labelled("gate")).expecting(ANY_REVISION);
        ana.apply_shards(&[forced]).await.unwrap();
        assert_eq!(revisions(db, 7).await.0, 1);
    }

    /// Case 12: batches of any size commit as one, and invalid requests are refused.
    async fn batches_are_atomic_and_invalid_changes_are_refused(db) {
        let ana = ana(db);
        assert_eq!(ana.apply_shards(&[]).await.unwrap().touched, 0);
        for size in [1, 2, 100, 256] {
            let changes = (0..=u8::MAX).take(size).map(|shard| ShardChange::upsert(shard, labelled("ramp")));
            assert_eq!(ana.apply_shards(&changes.collect::<Vec<_>>()).await.unwrap().touched, size as u64);
        }
        let revision = revisions(db, 0).await.1;
        assert_eq!(revisions(db, 255).await, (revision, revision), "a call has one revision");
        let mut reserved = ShardSpec::default();
        reserved.labels.insert("id".to_owned(), "7".to_owned());
        for wrong in [
            &[ShardChange::upsert(1, ShardSpec::default()), ShardChange::upsert(7, reserved)][..],
            &[ShardChange::delete(7), ShardChange::delete(7)],
            &[ShardChange::delete(7).expecting(0)],
            &[ShardChange::delete(7).expecting(-2)],
        ] {
            let error = ana.apply_shards(wrong).await.unwrap_err();
            assert!(matches!(error, Error::Misuse { misuse: Misuse::ShardSpec { shard: 7, .. }, .. }), "{error:?}");
        }
        assert_eq!(revisions(db, 1).await.1, revision);
    }

    /// Of two operators who change one spec at the same time, the second one is told.
    async fn racing_changes_of_a_spec_have_one_winner(db) {
        let (one, two) = (ana(db), ana(db));
        let change = |team| [ShardChange::upsert(7, labelled(team)).expecting(0)];
        let (first, second) = (change("ramp"), change("gate"));
        let (first, second) = tokio::join!(one.apply_shards(&first), two.apply_shards(&second));
        assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "{first:?}, {second:?}");
        assert_eq!(revisions(db, 7).await.0, revisions(db, 7).await.1);
    }

    async fn a_rehearsal_and_the_record_of_changes(db) {
        let changes = [ShardChange::upsert(3, labelled("ramp")), ShardChange::upsert(2, labelled("ramp"))];
        let rehearsed = ana(db).rehearsing(true).apply_shards(&changes).await.unwrap();
        assert_eq!((rehearsed.touched, rehearsed.is_rehearsal), (2, true));
        assert_eq!((revisions(db, 3).await, admin::operations(&db.pool, None, 9).await.unwrap().len()), ((0, 0), 0));
        ana(db).apply_shards(&changes).await.unwrap();
        let record = admin::operations(&db.pool, None, 9).await.unwrap().remove(0);
        assert_eq!((record.action.as_str(), record.target.as_str()), ("apply specs of", "shards 2-3"));
        assert_eq!((record.touched, record.why.as_deref()), (2, Some("a test")));
    }

    /// Case 13: nothing assigned, only failed shards, failed and other shards, several shards, a dry run.
    async fn shards_are_unassigned(db) {
        assign_and_fail(db).await;
        let ana = ana(db);
        assert_eq!(standing(db).await, (vec![0, 1, 2, 3, 4], vec![1, 9]));
        assert_eq!(ana.unassign(&[20, 21], false).await.unwrap().shards, [0; 0]);
        let dry = ana.clone().rehearsing(true).unassign(&[9, 0, 1], false).await.unwrap();
        assert_eq!((dry.shards, dry.done.touched, dry.done.is_rehearsal), (vec![0, 1, 9], 3, true));
        assert_eq!(standing(db).await, (vec![0, 1, 2, 3, 4], vec![1, 9]));
        // Only failed ones. The other shard stays, with its generation.
        assert_eq!(ana.unassign(&[0, 1, 9], true).await.unwrap().shards, [1, 9]);
        assert_eq!(standing(db).await, (vec![0, 2, 3, 4], vec![]));
        let generations: Vec<_> = listed(db, [0, 1]).await.iter().map(|view| view.generation).collect();
        assert_eq!(generations, [1, 2]);
        let healed = listed(db, [1]).await.remove(0);
        assert_eq!((healed.failed_at, healed.errors.len(), healed.attempts), (None, 0, 0));
        // A primary alone, and several with one that nothing holds.
        assert_eq!(ana.unassign(&[2], false).await.unwrap().shards, [2]);
        db.run("UPDATE eventbox_shard SET attempts = 1 WHERE shard = 3").await;
        assert_eq!(ana.unassign(&[0, 3, 9], false).await.unwrap().shards, [0, 3]);
        assert_eq!(standing(db).await, (vec![4], vec![]));
        let record = admin::operations(&db.pool, None, 9).await.unwrap();
        let targets: Vec<_> = record.iter().rev().map(|done| (done.target.as_str(), done.touched)).collect();
        assert_eq!(targets, [("shards 0-1 9 that failed", 2), ("shards 2", 1), ("shards 0 3 9", 2)]);
        assert!(record.iter().all(|done| done.action == "unassign"));
    }
}
