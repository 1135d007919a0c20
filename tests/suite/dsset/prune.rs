//! The pruner: when it forgets a name, and its races with turns and senders. Tests move the stamps instead of waiting.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::dsset::{Pruned, TombstoneKey, prune_slice};
use eventbox::{
    Emitted, Event, Mutation, Pruner, PrunerConfig, Recipient, Transition, dsset::DEFAULT_TOMBSTONE_DELAY, emit,
    process_batch,
};

use super::{MANY, airport, item, let_the_delay_pass, set};
use crate::support::{CellEngine, Decider, LOCK_WAITS, SOON, TestDb, TestEngine, drain, eventually, on_every_engine};

fn named(name: &str) -> Event {
    Event::new("value").named(name)
}

/// Runs a pass over all tombstones, three in each transaction.
async fn prune<B: TestEngine>(db: &TestDb<B>) -> Pruned {
    let slice = NonZeroU32::new(3).unwrap();
    Pruner::new(db.pool.clone(), PrunerConfig::default().with_slice(slice)).run_once().await.unwrap()
}

fn counts(pruned: &Pruned) -> [u64; 3] {
    [pruned.stamped, pruned.revived, pruned.deleted]
}

async fn stamped<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT count(*) FROM eventbox_tombstone WHERE gone_at_us IS NOT NULL").await
}

on_every_engine! {
    /// The pruner stamps a tombstone after its event is gone, and deletes it when the delay after the stamp has passed.
    async fn a_name_is_forgotten_a_delay_after_its_event(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        assert_eq!(counts(&prune(db).await), [0, 0, 0], "the event lives");
        assert_eq!(drain(&db.pool, &airport()).await.len(), 1);
        assert_eq!(stamped(db).await, 0, "a turn does not touch tombstones");
        assert_eq!(counts(&prune(db).await), [1, 0, 0]);
        assert_eq!(counts(&prune(db).await), [0, 0, 0], "the delay is not over");
        assert_eq!(emit(&db.pool, &airport(), named("n")).await.unwrap(), Emitted::Tombstoned);
        let_the_delay_pass(db).await;
        assert_eq!(emit(&db.pool, &airport(), named("n")).await.unwrap(), Emitted::Tombstoned);
        assert_eq!(counts(&prune(db).await), [0, 0, 1]);
        assert_eq!(emit(&db.pool, &airport(), named("n")).await.unwrap(), Emitted::Added);
        assert_eq!(counts(&prune(db).await), [0, 0, 0]);
    }

    /// A pass prunes idle recipients in many shards, in several slices. Tombstones of waiting events stay.
    async fn idle_recipients_are_pruned_slice_by_slice(db) {
        let boxes: Vec<Recipient> = (0..20).map(|n| Recipient::new("idle", n.to_string()).unwrap()).collect();
        let events: Vec<_> =
            boxes.iter().flat_map(|to| (0..11).map(|n| (to.clone(), named(&format!("n{n}"))))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        for to in &boxes[..10] {
            drain(&db.pool, to).await;
        }
        let first = prune(db).await;
        assert_eq!((first.walked, counts(&first), first.next), (220, [110, 0, 0], None));
        let_the_delay_pass(db).await;
        assert_eq!(counts(&prune(db).await), [0, 0, 110]);
        assert_eq!((db.count("eventbox_tombstone").await, db.count("eventbox_event").await), (110, 110));
    }

    /// A slice takes at most its limit of tombstones, in the order of the key, and returns where the next one begins.
    async fn a_slice_is_bounded_and_in_key_order(db) {
        for name in ["c", "a", "d", "b", "e"] {
            emit(&db.pool, &airport(), named(name)).await.unwrap();
        }
        drain(&db.pool, &airport()).await;
        let (two, shard) = (NonZeroU32::new(2).unwrap(), airport().shard());
        let mut after: Option<TombstoneKey> = None;
        let mut walked = Vec::new();
        loop {
            let mut tx = eventbox::begin(&db.pool).await.unwrap();
            let pruned =
                prune_slice::<Engine>(&mut tx, shard, after.as_ref(), two, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
            tx.commit().await.unwrap();
            walked.push((pruned.walked, pruned.stamped, pruned.next.as_ref().map(|next| next.name.clone())));
            after = pruned.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(walked, [(2, 2, Some("b".to_owned())), (2, 2, Some("d".to_owned())), (1, 1, None)]);
        // A full slice that ends at the last tombstone is the last one.
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        let five = NonZeroU32::new(5).unwrap();
        let pruned = prune_slice::<Engine>(&mut tx, shard, None, five, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
        assert_eq!((pruned.walked, pruned.next), (5, None));
        tx.rollback().await.unwrap();
    }

    /// A slice that fails says which shard it was to prune.
    async fn an_error_names_the_shard(db) {
        db.run("ALTER TABLE eventbox_tombstone RENAME TO away").await;
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        let error = prune_slice::<Engine>(&mut tx, 7, None, MANY, DEFAULT_TOMBSTONE_DELAY).await.unwrap_err();
        assert!(error.to_string().contains("prune the tombstones of shard 7"), "{error}");
        tx.rollback().await.unwrap();
    }

    /// The pruner clears the stamp of a tombstone whose event exists. The delay starts again when the event is gone.
    async fn the_delay_starts_again_when_the_event_of_a_stamped_name_is_consumed(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        db.run("UPDATE eventbox_tombstone SET gone_at_us = 1").await;
        assert_eq!(counts(&prune(db).await), [0, 1, 0], "the tombstone is not deleted, however old the stamp is");
        assert_eq!(drain(&db.pool, &airport()).await.len(), 1);
        assert_eq!(counts(&prune(db).await), [1, 0, 0]);
        assert_eq!(counts(&prune(db).await), [0, 0, 0]);
        assert_eq!(emit(&db.pool, &airport(), named("n")).await.unwrap(), Emitted::Tombstoned);
    }

    /// A re-send in an open transaction races with the deletion of its name.
    /// If the re-send comes first, the name is still remembered. If the deletion comes first, the re-send is added.
    async fn a_resend_and_a_deletion_come_in_one_order_or_the_other(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        drain(&db.pool, &airport()).await;
        prune(db).await;
        let_the_delay_pass(db).await;
        let mut user = eventbox::begin(&db.pool).await.unwrap();
        assert_eq!(set().add(&mut *user, &[item("n")]).await.unwrap(), [Emitted::Tombstoned]);
        // On SQLite the pruner waits for the user's transaction; on Postgres it does not.
        let pruner = Pruner::new(db.open(1), PrunerConfig::default());
        let pruning = tokio::spawn(async move { pruner.run_once().await.unwrap() });
        if Engine::FOLDER == "postgres" {
            eventually(SOON, async || db.count("eventbox_tombstone").await == 0).await;
        }
        user.commit().await.unwrap();
        assert_eq!(counts(&pruning.await.unwrap()), [0, 0, 1]);
        assert_eq!(db.count("eventbox_event").await, 0);

        let mut user = eventbox::begin(&db.pool).await.unwrap();
        assert_eq!(set().add(&mut *user, &[item("n")]).await.unwrap(), [Emitted::Added]);
        user.commit().await.unwrap();
        assert_eq!((db.count("eventbox_tombstone").await, db.count("eventbox_event").await), (1, 1));
        assert_eq!(counts(&prune(db).await), [0, 0, 0]);
    }

    /// A sender of a name whose deletion is not committed waits for the end of the deletion, and gets its outcome.
    async fn a_resend_waits_for_a_deletion_in_flight(db) {
        for deletion_commits in [false, true] {
            db.run("DELETE FROM eventbox_tombstone").await;
            emit(&db.pool, &airport(), named("n")).await.unwrap();
            drain(&db.pool, &airport()).await;
            prune(db).await;
            let_the_delay_pass(db).await;
            let mut tx = eventbox::begin(&db.pool).await.unwrap();
            let pruned =
                prune_slice::<Engine>(&mut tx, airport().shard(), None, MANY, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
            assert_eq!(counts(&pruned), [0, 0, 1]);
            let other = db.open(1);
            let sender = tokio::spawn(async move { emit(&other, &airport(), named("n")).await.unwrap() });
            if Engine::FOLDER == "postgres" {
                eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
            }
            match deletion_commits {
                true => tx.commit().await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
            let wanted = if deletion_commits { Emitted::Added } else { Emitted::Tombstoned };
            assert_eq!(sender.await.unwrap(), wanted);
            assert_eq!(db.count("eventbox_event").await, i64::from(deletion_commits));
            assert_eq!(db.count("eventbox_tombstone").await, 1);
        }
    }

    /// The pruner finds nothing to prune while the first copy of a name is in an open transaction.
    /// After the commit the event exists.
    async fn a_first_copy_that_is_not_committed_is_left_alone(db) {
        let mut user = eventbox::begin(&db.pool).await.unwrap();
        Engine::emit(&mut user, &airport(), named("n")).await.unwrap();
        let pruner = Pruner::new(db.open(1), PrunerConfig::default().with_tombstone_delay(Duration::ZERO));
        if Engine::FOLDER == "postgres" {
            assert_eq!(pruner.run_once().await.unwrap(), Pruned::default());
        }
        user.commit().await.unwrap();
        assert_eq!(counts(&pruner.run_once().await.unwrap()), [0, 0, 0]);
        assert_eq!(db.count("eventbox_tombstone").await, 1);
    }

    async fn a_pruner_starts_once_and_stops_once(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        drain(&db.pool, &airport()).await;
        let config = PrunerConfig::default().with_interval(Duration::ZERO);
        let pruner = Pruner::new(db.open(1), config);
        pruner.start();
        pruner.start();
        eventually(SOON, async || stamped(db).await == 1).await;
        let_the_delay_pass(db).await;
        eventually(SOON, async || db.count("eventbox_tombstone").await == 0).await;
        assert!(pruner.stop(SOON).await.complete && pruner.stop(SOON).await.complete);

        emit(&db.pool, &airport(), named("n")).await.unwrap();
        drain(&db.pool, &airport()).await;
        pruner.start();
        assert!(pruner.stop(SOON).await.complete);
        assert_eq!(stamped(db).await, 0, "once stopped, it does not start again");
        assert_eq!(counts(&pruner.run_once().await.unwrap()), [1, 0, 0], "a single pass still works");
    }

    /// A stop waits for the transaction in flight, and not for the whole pass.
    async fn a_stop_ends_a_pass_between_two_slices(db) {
        let names: Vec<_> = (0..500).map(|n| (airport(), named(&format!("n{n}")))).collect();
        eventbox::emit_all(&db.pool, &names).await.unwrap();
        drain(&db.pool, &airport()).await;
        let pruner = Pruner::new(db.open(1), PrunerConfig::default().with_slice(NonZeroU32::MIN));
        pruner.start();
        eventually(SOON, async || stamped(db).await > 0).await;
        assert!(pruner.stop(SOON).await.complete);
        assert!(stamped(db).await < 500, "the pass went on to its end");
    }

    /// The pruner keeps a name for its own delay.
    async fn a_pruner_has_a_delay_of_its_own(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        drain(&db.pool, &airport()).await;
        let week = Duration::from_secs(7 * 24 * 60 * 60);
        let patient = Pruner::new(db.open(1), PrunerConfig::default().with_tombstone_delay(week));
        assert_eq!(counts(&patient.run_once().await.unwrap()), [1, 0, 0]);
        let_the_delay_pass(db).await;
        assert_eq!(counts(&patient.run_once().await.unwrap()), [0, 0, 0]);
        assert_eq!(counts(&prune(db).await), [0, 0, 1], "the default delay has passed");
    }

    /// A pass that fails does not end the pruner.
    async fn a_pass_that_fails_is_retried(db) {
        emit(&db.pool, &airport(), named("n")).await.unwrap();
        drain(&db.pool, &airport()).await;
        db.run("ALTER TABLE eventbox_tombstone RENAME TO away").await;
        let pruner = Pruner::new(db.open(1), PrunerConfig::default().with_interval(Duration::ZERO));
        let error = pruner.run_once().await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        pruner.start();
        db.run("ALTER TABLE away RENAME TO eventbox_tombstone").await;
        eventually(SOON, async || stamped(db).await == 1).await;
        assert!(pruner.stop(SOON).await.complete);
    }
}

/// The second start of a pruner starts no second task. One thread runs the test, so no task runs between the starts.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_pruner_has_one_task() {
    crate::support::with_database("a_pruner_has_one_task", async |db: &TestDb<sqlx::Sqlite>| {
        let pruner = Pruner::new(db.open(1), PrunerConfig::default());
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        pruner.start();
        pruner.start();
        assert_eq!(tasks(), before + 1);
        assert!(pruner.stop(SOON).await.complete);
    })
    .await;
}

/// Tests that need an engine with many writers.
#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use crate::support::with_database;

    type Engine = sqlx::Postgres;

    /// For the pruner an event exists until the turn that consumes it commits. A pass after the commit stamps its name.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_event_exists_until_its_turn_commits() {
        with_database("a_turn_not_committed", async |db: &TestDb<Engine>| {
            emit(&db.pool, &airport(), named("n")).await.unwrap();
            let other = db.open(1);
            let processor = Decider(move |events: &[Event]| -> Mutation<Engine, ()> {
                let other = other.clone();
                let effect = eventbox::SideEffect::new(move |_tx| {
                    Box::pin(async move {
                        let pruner = Pruner::new(other, PrunerConfig::default().with_tombstone_delay(Duration::ZERO));
                        assert_eq!(counts(&pruner.run_once().await?), [0, 0, 0]);
                        Ok(())
                    })
                });
                Transition::stay().consuming(events).side_effect(effect).into()
            });
            assert_eq!(process_batch(&db.pool, &airport(), &processor, MANY).await.unwrap().consumed, 1);
            assert_eq!(counts(&prune(db).await), [1, 0, 0]);
        })
        .await;
    }

    /// Two pruners at the same time: each skips the rows that the other has locked, without waiting.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn pruners_do_not_wait_for_each_other() {
        with_database("pruners_do_not_wait", async |db: &TestDb<Engine>| {
            for name in ["a", "b", "c"] {
                emit(&db.pool, &airport(), named(name)).await.unwrap();
            }
            drain(&db.pool, &airport()).await;
            let (mut one, mut two) =
                (eventbox::begin(&db.pool).await.unwrap(), eventbox::begin(&db.pool).await.unwrap());
            let (shard, first) = (airport().shard(), NonZeroU32::MIN);
            let held = prune_slice::<Engine>(&mut one, shard, None, first, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
            assert_eq!(counts(&held), [1, 0, 0]);
            let rest = prune_slice::<Engine>(&mut two, shard, None, MANY, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
            assert_eq!((rest.walked, counts(&rest)), (3, [2, 0, 0]));
            two.commit().await.unwrap();
            one.commit().await.unwrap();
            assert_eq!(counts(&prune(db).await), [0, 0, 0]);
        })
        .await;
    }

    /// A stamp is the time of its statement, and not of the begin of its transaction.
    /// So a stamp made in an old transaction is not older than the removal of the event.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stamp_is_the_time_of_its_statement() {
        with_database("a_stamp_is_the_time_of_its_statement", async |db: &TestDb<Engine>| {
            emit(&db.pool, &airport(), named("n")).await.unwrap();
            let mut old = eventbox::begin(&db.pool).await.unwrap();
            sqlx::raw_sql("SELECT 1").execute(&mut *old).await.unwrap();
            drain(&db.pool, &airport()).await;
            let pruned =
                prune_slice::<Engine>(&mut old, airport().shard(), None, MANY, DEFAULT_TOMBSTONE_DELAY).await.unwrap();
            assert_eq!(counts(&pruned), [1, 0, 0]);
            old.commit().await.unwrap();
            let later = "SELECT count(*) FROM eventbox_tombstone t JOIN eventbox_state s USING (shard, recipient)
                         WHERE t.gone_at_us >= s.updated_at_us";
            assert_eq!(db.number(later).await, 1);
        })
        .await;
    }
}
