//! Zones and specs of shards, standbys, and shards whose rounds fail as a whole.

use std::time::Duration;

use eventbox::admin::{self, Operator, ShardChange, ShardSelector, ShardSpec, ShardState, ShardView};
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use super::{STOP, backoff, config, emit, idle, leases, seen, tally, tallying};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Settings with leases, also where the other tests have none.
fn leased(zone: &str) -> RuntimeConfig {
    let mut config = config();
    config.leases = Some(leases());
    config.zone = zone.to_owned();
    config
}

/// Settings with which a shard fails after two failures, and may fail `tries` times in a row.
fn failing_soon(tries: u32) -> RuntimeConfig {
    let mut config = leased("");
    config.fail_after = 2.try_into().unwrap();
    config.fail_tries = tries.try_into().unwrap();
    config.fail_backoff = backoff(Duration::from_millis(10), Duration::from_millis(20));
    config
}

async fn all<B: TestEngine>(db: &TestDb<B>) -> Vec<ShardView> {
    admin::list_shards(&db.pool, &ShardSelector::all()).await.unwrap()
}

async fn one<B: TestEngine>(db: &TestDb<B>, shard: u8) -> ShardView {
    all(db).await.swap_remove(usize::from(shard))
}

fn ana<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    Operator::new(db.pool.clone(), "ana")
}

fn disabled() -> ShardSpec {
    let mut spec = ShardSpec::default();
    spec.is_disabled = true;
    spec
}

fn preferring(zone: &str) -> ShardSpec {
    let mut spec = ShardSpec::default();
    spec.zone = Some(zone.to_owned());
    spec
}

/// Fails at every batch.
struct Refusing;

impl Reducer for Refusing {
    type State = u64;

    fn reduce(&self, _: &Recipient, _: &[Event], _: u64) -> Result<Outcome<u64>, BoxError> {
        Err("never".into())
    }
}

on_every_engine! {
    /// Case 11 of the acceptance cases. A lone process has no standby. The standby of each shard is in the other zone,
    /// and becomes the primary when the primary stops.
    async fn a_standby_becomes_the_primary(db) {
        let one = tallying(db.open(4)).config(leased("a")).start().await.unwrap();
        eventually(SOON, async || all(db).await.iter().all(|shard| shard.state == ShardState::Primary)).await;
        assert!(all(db).await.iter().all(|shard| shard.standby.is_none() && shard.generation == 1));
        let two = tallying(db.open(4)).config(leased("b")).start().await.unwrap();
        let (first, second) = (Some(one.worker()), Some(two.worker()));
        eventually(SOON, async || {
            let is_shared = |shard: &ShardView| {
                let pair = (shard.holder, shard.standby);
                shard.state == ShardState::Primary && (pair == (first, second) || pair == (second, first))
            };
            one.shards() == 128 && two.shards() == 128 && all(db).await.iter().all(is_shared)
        })
        .await;
        let before = all(db).await;
        assert!(before.iter().all(|shard| shard.statuses.len() == 2), "{before:#?}");
        assert!(one.stop(STOP).await.complete);
        eventually(SOON, async || {
            let is_over = |shard: &ShardView| shard.holder == second && shard.state == ShardState::Primary;
            two.shards() == 256 && all(db).await.iter().all(is_over)
        })
        .await;
        for (before, after) in before.iter().zip(all(db).await) {
            assert_eq!(after.standby, None);
            assert_eq!(after.generation > before.generation, before.holder == first, "{after:?}");
        }
        two.stop(STOP).await;
    }

    /// Case 11: an assignment that is removed ends the work, and one that is made again begins it again.
    async fn a_disabled_shard_is_given_up_until_it_is_enabled(db) {
        let to = tally(1);
        let shard = to.shard();
        let runtime = tallying(db.open(4)).config(leased("")).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        ana(db).apply_shards(&[ShardChange::upsert(shard, disabled())]).await.unwrap();
        eventually(SOON, async || runtime.shards() == 255).await;
        let given_up = one(db, shard).await;
        assert_eq!((given_up.holder, given_up.state), (None, ShardState::Idle), "{given_up:?}");
        emit(db, &to, ["a"]).await;
        let other = (0..).map(tally).find(|other| other.shard() != shard).unwrap();
        emit(db, &other, ["b"]).await;
        eventually(SOON, async || seen(db, &other).await == ["b"]).await;
        assert_eq!(db.count("eventbox_event").await, 1);
        ana(db).apply_shards(&[ShardChange::delete(shard)]).await.unwrap();
        idle(db).await;
        assert_eq!(seen(db, &to).await, ["a"]);
        eventually(SOON, async || one(db, shard).await.state == ShardState::Primary).await;
        assert_eq!(one(db, shard).await.generation, given_up.generation + 1);
        runtime.stop(STOP).await;
    }

    /// Case 8: the generation is 1 after the first assignment and grows with each other one. A process drops a shard
    /// that another one took.
    async fn a_shard_that_another_took_is_dropped(db) {
        let mut config = leased("");
        let mut terms = leases();
        terms.lease_ttl = Duration::from_secs(600);
        config.leases = Some(terms);
        let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        assert_eq!(one(db, 7).await.generation, 1);
        assert_eq!(ana(db).unassign(&[7], false).await.unwrap().shards, [7]);
        eventually(SOON, async || one(db, 7).await.holder == Some(runtime.worker())).await;
        assert_eq!(one(db, 7).await.generation, 3, "it was freed and taken");
        let (now, id) = match Engine::FOLDER {
            "postgres" => ("(extract(epoch FROM statement_timestamp()) * 1000000)::int8", "gen_random_uuid()"),
            _ => ("CAST(unixepoch('subsec') * 1000000 AS INTEGER)", "randomblob(16)"),
        };
        db.run(format_args!(
            "UPDATE eventbox_lease SET holder = {id}, generation = generation + 1, expires_at_us = {now} + 60000000
             WHERE shard = 7"
        ))
        .await;
        eventually(SOON, async || runtime.shards() == 255).await;
        assert_ne!(one(db, 7).await.holder, Some(runtime.worker()));
        runtime.stop(STOP).await;
    }

    async fn a_preferred_zone_gets_its_shards(db) {
        let changes: Vec<_> = (0..100).map(|shard| ShardChange::upsert(shard, preferring("b"))).collect();
        ana(db).apply_shards(&changes).await.unwrap();
        let one = tallying(db.open(4)).config(leased("a")).start().await.unwrap();
        eventually(SOON, async || one.shards() == 256).await;
        let two = tallying(db.open(4)).config(leased("b")).start().await.unwrap();
        let worker = Some(two.worker());
        eventually(SOON, async || {
            let held = all(db).await;
            two.shards() == 128 && held.iter().take(100).all(|shard| shard.holder == worker)
        })
        .await;
        let members = admin::members(&db.pool).await.unwrap();
        assert!(members.iter().any(|member| Some(member.worker) == worker && member.zone == "b"), "{members:?}");
        one.stop(STOP).await;
        two.stop(STOP).await;
    }

    /// Case 9, as far as it applies: a shard whose rounds fail as a whole is FAILED with the cause. After the last try
    /// it waits for an operator, who unassigns it (case 13).
    async fn a_shard_that_failed_waits_to_be_unassigned(db) {
        let to = tally(1);
        let runtime = tallying(db.open(4)).config(failing_soon(3)).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        db.run("ALTER TABLE eventbox_state RENAME TO away").await;
        emit(db, &to, ["a"]).await;
        eventually(SOON, async || one(db, to.shard()).await.attempts == 3).await;
        let failed = one(db, to.shard()).await;
        assert_eq!((failed.state, failed.next_attempt_in), (ShardState::Failed, None), "{failed:?}");
        assert!(failed.errors.len() == 1 && failed.errors[0].contains("eventbox_state"), "{failed:?}");
        assert_eq!(failed.statuses[0].errors, failed.errors);
        assert!(failed.failed_at.is_some() && failed.holder == Some(runtime.worker()), "{failed:?}");
        eventually(SOON, async || runtime.shards() == 255).await;
        db.run("ALTER TABLE away RENAME TO eventbox_state").await;
        // Other shards go on, and this one waits.
        let other = (0..).map(tally).find(|other| other.shard() != to.shard()).unwrap();
        emit(db, &other, ["b"]).await;
        eventually(SOON, async || seen(db, &other).await == ["b"]).await;
        // A round that was in flight may have found the table again, and no later one looks at the shard.
        emit(db, &to, ["c"]).await;
        emit(db, &other, ["d"]).await;
        eventually(SOON, async || seen(db, &other).await == ["b", "d"]).await;
        assert!(!seen(db, &to).await.contains(&"c".to_owned()));
        let of: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(ana(db).rehearsing(true).unassign(&of, true).await.unwrap().shards, [to.shard()]);
        assert_eq!(one(db, to.shard()).await.state, ShardState::Failed);
        assert_eq!(ana(db).unassign(&of, true).await.unwrap().shards, [to.shard()]);
        idle(db).await;
        assert_eq!(seen(db, &to).await, ["a", "c"]);
        eventually(SOON, async || one(db, to.shard()).await.state == ShardState::Primary).await;
        let works = one(db, to.shard()).await;
        assert_eq!((works.attempts, works.generation, works.errors.len()), (0, failed.generation + 2, 0), "{works:?}");
        runtime.stop(STOP).await;
    }

    async fn a_failed_shard_is_tried_again_and_healed(db) {
        let to = tally(1);
        let runtime = tallying(db.open(4)).config(failing_soon(1_000)).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        db.run("ALTER TABLE eventbox_state RENAME TO away").await;
        emit(db, &to, ["a"]).await;
        eventually(SOON, async || one(db, to.shard()).await.attempts > 0).await;
        db.run("ALTER TABLE away RENAME TO eventbox_state").await;
        idle(db).await;
        assert_eq!(seen(db, &to).await, ["a"]);
        eventually(SOON, async || one(db, to.shard()).await.attempts == 0).await;
        assert_eq!((one(db, to.shard()).await.failed_at, runtime.shards()), (None, 256));
        runtime.stop(STOP).await;
    }

    /// A failing recipient is its own affair.
    async fn a_failing_recipient_fails_no_shard(db) {
        let mut config = failing_soon(3);
        config.fail_after = 1.try_into().unwrap();
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Refusing).config(config).start().await.unwrap();
        emit(db, &tally(1), ["a"]).await;
        eventually(SOON, async || db.count("eventbox_dead_letter").await == 1).await;
        let shard = one(db, tally(1).shard()).await;
        assert_eq!((shard.attempts, shard.failed_at), (0, None), "{shard:?}");
        runtime.stop(STOP).await;
    }
}
