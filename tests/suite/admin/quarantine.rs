//! Events in quarantine, their names, and the pruner.

use eventbox::{Emitted, Event, Pruner, PrunerConfig, admin};

use super::{cell, emit, listed, turn, values};
use crate::support::{TestDb, TestEngine, drain, on_every_engine};

/// Prunes without a delay, so that the second pass deletes every stamped tombstone.
async fn prune<B: TestEngine>(db: &TestDb<B>) -> [u64; 3] {
    let config = PrunerConfig::default().with_tombstone_delay(std::time::Duration::ZERO);
    let pruned = Pruner::new(db.pool.clone(), config).run_once().await.unwrap();
    [pruned.stamped, pruned.revived, pruned.deleted]
}

macro_rules! resend {
    ($db:expr, $name:literal) => {
        eventbox::emit(&$db.pool, &cell(), Event::new("again").named($name)).await.unwrap().emitted()
    };
}

on_every_engine! {
    async fn an_event_comes_back_as_it_was(db) {
        let ids = emit(db, &["a", "b", "c"]).await;
        eventbox::emit(&db.pool, &cell(), Event::new("no name")).await.unwrap();
        let before = admin::events(&db.pool, &cell(), None, 10).await.unwrap();
        assert_eq!(
            admin::quarantine(&db.pool, &cell(), &[ids[1], before[3].id(), ids[1]], "no flight number").await.unwrap(),
            2
        );
        assert_eq!((values(db).await, turn(db).await), (vec!["a".to_owned(), "c".to_owned()], 1));
        let aside = admin::quarantined(&db.pool, &cell(), None, 10).await.unwrap();
        assert_eq!(aside.iter().map(|one| &one.event).collect::<Vec<_>>(), [&before[1], &before[3]]);
        assert_eq!(
            (aside[0].code.as_str(), aside[0].reason.as_str(), aside[0].attempts),
            (admin::QUARANTINED, "no flight number", 0)
        );
        assert!(aside[0].quarantined_at.elapsed().unwrap().as_secs() < 60);
        assert_eq!(admin::quarantined(&db.pool, &cell(), Some(ids[1]), 10).await.unwrap().len(), 1);

        assert_eq!(admin::replay(&db.pool, &cell(), &[before[3].id(), ids[1]]).await.unwrap(), 2);
        assert_eq!(
            admin::events(&db.pool, &cell(), None, 10).await.unwrap(),
            before,
            "the events are back in their old order"
        );
        assert_eq!(admin::replay(&db.pool, &cell(), &[ids[1]]).await.unwrap(), 0);
        assert_eq!((turn(db).await, db.count("eventbox_dead_letter").await), (2, 0));
    }

    async fn an_event_of_another_recipient_is_not_touched(db) {
        let id = emit(db, &["a"]).await[0];
        let other = eventbox::Recipient::new("cell", "2").unwrap();
        assert_eq!(admin::quarantine(&db.pool, &other, &[id], "why").await.unwrap(), 0);
        assert_eq!(admin::purge(&db.pool, &other, &[id]).await.unwrap(), 0);
        admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
        assert_eq!(admin::replay(&db.pool, &other, &[id]).await.unwrap(), 0);
        assert_eq!(admin::discard(&db.pool, &other, &[id]).await.unwrap(), 0);
        assert_eq!((db.count("eventbox_dead_letter").await, db.count("eventbox_state").await), (1, 1));
    }

    /// The name of an event in quarantine is a duplicate and is not pruned. A replay does not change that.
    /// Once the event is consumed or discarded, its name is remembered for the delay.
    async fn a_name_lives_as_long_as_its_event_exists_anywhere(db) {
        let id = emit(db, &["a"]).await[0];
        admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
        assert_eq!((prune(db).await, resend!(db, "a")), ([0, 0, 0], Emitted::Duplicate));
        admin::replay(&db.pool, &cell(), &[id]).await.unwrap();
        assert_eq!((prune(db).await, resend!(db, "a")), ([0, 0, 0], Emitted::Duplicate));
        assert_eq!(drain(&db.pool, &cell()).await.len(), 1);
        assert_eq!((prune(db).await, resend!(db, "a")), ([1, 0, 0], Emitted::Tombstoned));
        assert_eq!(prune(db).await, [0, 0, 1]);

        assert_eq!(resend!(db, "a"), Emitted::Added);
        let id = listed(db).await[0].1;
        admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
        assert_eq!(admin::discard(&db.pool, &cell(), &[id]).await.unwrap(), 1);
        assert_eq!((resend!(db, "a"), prune(db).await), (Emitted::Tombstoned, [1, 0, 0]));
    }

    /// A replay clears the stamp of the name in its own transaction, without the pruner.
    /// When the event is consumed after the replay, the delay starts again.
    async fn a_replay_clears_the_stamp_of_the_name(db) {
        let id = emit(db, &["a"]).await[0];
        admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
        for tombstone in ["UPDATE eventbox_tombstone SET gone_at_us = 1", "DELETE FROM eventbox_tombstone"] {
            db.run(tombstone).await;
            admin::replay(&db.pool, &cell(), &[id]).await.unwrap();
            assert_eq!(db.number("SELECT count(*) FROM eventbox_tombstone WHERE gone_at_us IS NULL").await, 1);
            assert_eq!(resend!(db, "a"), Emitted::Duplicate);
            admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
        }
        admin::replay(&db.pool, &cell(), &[id]).await.unwrap();
        drain(&db.pool, &cell()).await;
        assert_eq!(prune(db).await, [1, 0, 0], "stamped now, and not deleted for an old stamp");
    }
}

/// Tests that need an engine with many writers.
#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use crate::support::{LOCK_WAITS, SOON, eventually, with_database};

    type Engine = sqlx::Postgres;

    async fn prune_in(tx: &mut sqlx::PgConnection) -> [u64; 3] {
        let limit = std::num::NonZeroU32::new(100).unwrap();
        let delay = std::time::Duration::ZERO;
        let pruned = eventbox::dsset::prune_slice::<Engine>(tx, cell().shard(), None, limit, delay).await.unwrap();
        [pruned.stamped, pruned.revived, pruned.deleted]
    }

    /// The pruner has locked the tombstone when the replay begins. The replay waits, and its write is the last.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replay_waits_for_the_pruner() {
        with_database("a_replay_waits_for_the_pruner", async |db: &TestDb<Engine>| {
            let id = emit(db, &["a"]).await[0];
            admin::quarantine(&db.pool, &cell(), &[id], "why").await.unwrap();
            db.run("UPDATE eventbox_tombstone SET gone_at_us = 1").await;
            let mut tx = eventbox::begin(&db.pool).await.unwrap();
            assert_eq!(prune_in(&mut tx).await, [0, 1, 0], "the event lives, in quarantine");
            let other = db.open(1);
            let replaying = tokio::spawn(async move { admin::replay(&other, &cell(), &[id]).await.unwrap() });
            eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
            tx.commit().await.unwrap();
            assert_eq!(replaying.await.unwrap(), 1);
            assert_eq!((values(db).await, prune(db).await), (vec!["a".to_owned()], [0, 0, 0]));
        })
        .await;
    }

    /// A write that restores an event has locked its tombstone, whose stamp is old enough for a deletion.
    /// The pruner skips the tombstone, and sees at its next pass that the event exists.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_pruner_skips_a_tombstone_that_a_replay_has_locked() {
        with_database("the_pruner_leaves_alone", async |db: &TestDb<Engine>| {
            emit(db, &["a"]).await;
            drain(&db.pool, &cell()).await;
            prune(db).await;
            let mut replay = eventbox::begin(&db.pool).await.unwrap();
            sqlx::raw_sql(
                "INSERT INTO eventbox_event (shard, recipient, id, name, value)
                 SELECT shard, recipient, id, name, 'a' FROM eventbox_tombstone;
                 UPDATE eventbox_tombstone SET gone_at_us = NULL",
            )
            .execute(&mut *replay)
            .await
            .unwrap();
            assert_eq!(prune(db).await, [0, 0, 0]);
            replay.commit().await.unwrap();
            assert_eq!((prune(db).await, resend!(db, "a")), ([0, 0, 0], Emitted::Duplicate));
        })
        .await;
    }
}
