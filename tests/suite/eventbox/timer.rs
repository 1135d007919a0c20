//! Timers: when they fire, that they fire once, and how long their names are taken. The tests move due times instead of
//! waiting.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use ::eventbox::testing;
use ::eventbox::{
    BoxError, Emitted, Error, Event, Misuse, Outcome, Pruner, PrunerConfig, Recipient, Reducer, admin, emit, emit_all,
    reduce_batch,
    timer::{Due, MAX_TIMER, Moved, cancel, move_due, timers},
};

use crate::support::{CellEngine, LOCK_WAITS, SOON, TestDb, TestEngine, drain, eventually, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const HOUR: Duration = Duration::from_secs(3_600);

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

fn named(name: &str) -> Event {
    Event::new(name.to_owned()).named(name).due_in(HOUR)
}

fn over(value: &'static str) -> Event {
    Event::new(value).due_at(SystemTime::UNIX_EPOCH)
}

fn values(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| str::from_utf8(event.value()).unwrap()).collect()
}

fn all_shards() -> Vec<u8> {
    (0..=255).collect()
}

async fn move_all<B: TestEngine>(db: &TestDb<B>, max: u32) -> Moved {
    move_due(&db.pool, &all_shards(), NonZeroU32::new(max).unwrap()).await.unwrap()
}

/// Lets two hours pass.
async fn let_time_pass<B: TestEngine>(db: &TestDb<B>) {
    db.run("UPDATE eventbox_timer SET due_at_us = due_at_us - 7200000000").await;
}

async fn prune<B: TestEngine>(db: &TestDb<B>) -> [u64; 3] {
    let config = PrunerConfig::default().with_tombstone_delay(Duration::ZERO);
    let pruned = Pruner::new(db.pool.clone(), config).run_once().await.unwrap();
    [pruned.stamped, pruned.revived, pruned.deleted]
}

on_every_engine! {
    async fn a_timer_comes_when_it_is_due_and_once(db) {
        emit(&db.pool, &order(), Event::new("later").due_in(HOUR)).await.unwrap();
        emit(&db.pool, &order(), over("over")).await.unwrap();
        emit(&db.pool, &order(), Event::new("now")).await.unwrap();
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await), (2, 1));
        let ids: Vec<_> = timers(&db.pool, &order(), None, 10).await.unwrap().iter().map(Event::id).collect();

        let moved = move_all(db, 10).await;
        assert_eq!((moved.moved, &moved.shards), (1, &vec![order().shard()]));
        let wait = moved.next_in.unwrap();
        assert!(wait > HOUR - SOON && wait <= HOUR, "{wait:?}");
        let events = drain(&db.pool, &order()).await;
        assert_eq!(
            values(&events),
            ["over", "now"],
            "the id of the emit is kept, so the order of the emits is the order of listing"
        );
        assert_eq!(events[0].id(), ids[1]);
        assert_eq!(events[0].due(), None);

        let_time_pass(db).await;
        assert_eq!(move_all(db, 10).await.moved, 1);
        assert_eq!(values(&drain(&db.pool, &order()).await), ["later"], "long overdue, and once");
        let nothing = move_all(db, 10).await;
        assert_eq!((nothing.moved, nothing.shards, nothing.next_in), (0, vec![], None));
    }

    async fn timers_can_be_looked_at(db) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_893_456_000_000_001);
        emit(&db.pool, &order(), Event::new("a").named("n").due_at(at)).await.unwrap();
        emit_all(&db.pool, &[(order(), Event::new("b").due_in(HOUR)), (order(), Event::new("now"))]).await.unwrap();
        emit(&db.pool, &Recipient::new("order", "8").unwrap(), over("elsewhere")).await.unwrap();
        let seen = timers(&db.pool, &order(), None, 10).await.unwrap();
        assert_eq!(values(&seen), ["a", "b"]);
        assert_eq!((seen[0].name(), seen[0].due()), (Some("n"), Some(Due::At(at))));
        assert_eq!(values(&timers(&db.pool, &order(), Some(seen[0].id()), 10).await.unwrap()), ["b"]);
        assert_eq!(values(&timers(&db.pool, &order(), None, 1).await.unwrap()), ["a"]);
    }

    async fn a_wait_ends_that_much_later(db) {
        emit(&db.pool, &order(), Event::new("").due_in(HOUR)).await.unwrap();
        let moved = move_all(db, 10).await;
        assert!(moved.moved == 0 && moved.next_in > Some(HOUR - SOON), "{moved:?}");
    }

    async fn a_name_is_accepted_once_as_timer_as_event_and_after(db) {
        let resend = async || emit(&db.pool, &order(), Event::new("again").named("n")).await.unwrap().emitted();
        let in_a_list =
            async || emit_all(&db.pool, &[(order(), named("n")), (order(), Event::new("x"))]).await.unwrap()[0];
        assert_eq!(emit(&db.pool, &order(), named("n")).await.unwrap(), Emitted::Added);
        assert_eq!((resend().await, in_a_list().await), (Emitted::Duplicate, Emitted::Duplicate));
        assert_eq!(prune(db).await, [0, 0, 0], "a timer lives");
        let_time_pass(db).await;
        assert_eq!(move_all(db, 10).await.moved, 1);
        assert_eq!((resend().await, prune(db).await), (Emitted::Duplicate, [0, 0, 0]));
        assert_eq!(values(&drain(&db.pool, &order()).await), ["n", "x"]);
        assert_eq!((resend().await, in_a_list().await), (Emitted::Tombstoned, Emitted::Tombstoned));
        assert_eq!((prune(db).await, prune(db).await), ([1, 0, 0], [0, 0, 1]));
        assert_eq!(in_a_list().await, Emitted::Added);
        assert_eq!(db.count("eventbox_timer").await, 1);
    }

    async fn a_cancelled_timer_does_not_come_and_its_name_is_remembered(db) {
        emit(&db.pool, &order(), named("n")).await.unwrap();
        emit(&db.pool, &order(), named("other")).await.unwrap();
        assert!(!cancel(&db.pool, &order(), "none such").await.unwrap());
        assert!(!cancel(&db.pool, &Recipient::new("order", "8").unwrap(), "n").await.unwrap());
        assert!(cancel(&db.pool, &order(), "n").await.unwrap());
        assert!(!cancel(&db.pool, &order(), "n").await.unwrap());
        assert_eq!(emit(&db.pool, &order(), named("n")).await.unwrap(), Emitted::Tombstoned);
        let_time_pass(db).await;
        assert_eq!(move_all(db, 10).await.moved, 1);
        assert!(!cancel(&db.pool, &order(), "other").await.unwrap(), "it is in the box");
        assert_eq!(values(&drain(&db.pool, &order()).await), ["other"]);
        assert_eq!((prune(db).await, prune(db).await), ([2, 0, 0], [0, 0, 2]));
        assert_eq!(emit(&db.pool, &order(), named("n")).await.unwrap(), Emitted::Added);
    }

    async fn timers_share_the_fate_of_the_callers_transaction(db) {
        let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
        emit(&mut *tx, &order(), named("n")).await.unwrap();
        emit_all(&mut *tx, &[(order(), named("m")), (order(), over("unnamed"))]).await.unwrap();
        assert!(cancel(&mut *tx, &order(), "m").await.unwrap(), "also one of the same transaction");
        tx.rollback().await.unwrap();
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_tombstone").await), (0, 0));

        emit(&db.pool, &order(), named("n")).await.unwrap();
        let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
        assert!(cancel(&mut *tx, &order(), "n").await.unwrap());
        tx.rollback().await.unwrap();
        let_time_pass(db).await;
        assert_eq!(move_all(db, 10).await.moved, 1);
    }

    async fn limits_of_timers_are_refused_before_any_sql(db) {
        db.pool.close().await;
        for event in [Event::new("").due_in(Duration::MAX), Event::new("").due_at(SystemTime::now() + MAX_TIMER + HOUR)]
        {
            let error = emit(&db.pool, &order(), event).await.unwrap_err();
            assert!(
                matches!(error, Error::Misuse { misuse: Misuse::TooFar { limit: MAX_TIMER, .. }, .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains("order/7"), "{error}");
        }
        let error = cancel(&db.pool, &order(), "").await.unwrap_err();
        assert!(matches!(error, Error::Misuse { misuse: Misuse::Empty { .. }, .. }), "{error:?}");
    }

    /// A move is bounded and takes the timers that have been due longest. No shard starves another.
    async fn a_move_is_bounded_in_due_order_and_fair(db) {
        let other = Recipient::new("order", "9").unwrap();
        assert_ne!(order().shard(), other.shard());
        let at = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let event = |second: u64| Event::new(second.to_string()).due_at(at(second));
        let mut events: Vec<_> = (1..=20).rev().map(|second| (order(), event(second))).collect();
        events.push((other.clone(), event(1_000)));
        emit_all(&db.pool, &events).await.unwrap();

        let first = move_all(db, 10).await;
        assert_eq!((first.moved, first.shards.len(), first.next_in), (6, 2, Some(Duration::ZERO)));
        assert_eq!(values(&drain(&db.pool, &order()).await), ["5", "4", "3", "2", "1"]);
        assert_eq!(values(&drain(&db.pool, &other).await), ["1000"]);
        let second = move_all(db, 10).await;
        assert_eq!((second.moved, second.next_in), (10, Some(Duration::ZERO)));
        let third = move_due(&db.pool, &[order().shard(), order().shard()], MANY).await.unwrap();
        assert_eq!((third.moved, third.next_in), (5, None));
        assert_eq!(drain(&db.pool, &order()).await.len(), 15);
        // More shards have due timers than one move may take. The move is still bounded.
        let wide: Vec<_> = (0..200).map(|n| (Recipient::new("order", n.to_string()).unwrap(), over("x"))).collect();
        emit_all(&db.pool, &wide).await.unwrap();
        let moved = move_all(db, 3).await;
        assert_eq!((moved.moved, moved.next_in), (3, Some(Duration::ZERO)));
        assert_eq!(move_due(&db.pool, &[], MANY).await.unwrap(), Moved::default());
    }

    /// Timers of one call with equal waits fire in the order of the events.
    async fn timers_of_one_emit_come_in_its_order(db) {
        let events: Vec<_> = (0..50).map(|n| (order(), Event::new(n.to_string()).due_in(HOUR))).collect();
        emit_all(&db.pool, &events).await.unwrap();
        let_time_pass(db).await;
        let mut wanted = Vec::new();
        for part in 0..5 {
            assert_eq!(move_all(db, 10).await.moved, 10);
            wanted.extend((part * 10..part * 10 + 10).map(|n| n.to_string()));
            assert_eq!(values(&drain(&db.pool, &order()).await), wanted.split_off(0));
        }
    }

    async fn an_administrator_knows_timers(db) {
        emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        drain(&db.pool, &order()).await;
        db.run("UPDATE eventbox_state SET updated_at_us = updated_at_us - 3600000001").await;
        emit_all(&db.pool, &[(order(), named("n")), (order(), Event::new("unnamed").due_in(HOUR))]).await.unwrap();
        assert_eq!(admin::forget(&db.pool, &order()).await.unwrap(), admin::Forgotten::HasTimers);

        let seen = timers(&db.pool, &order(), None, 10).await.unwrap();
        assert_eq!(admin::purge(&db.pool, &order(), &[seen[1].id()]).await.unwrap(), 1);
        emit_all(&db.pool, &[(order(), Event::new("now")), (order(), over("over"))]).await.unwrap();
        assert_eq!(admin::purge_all(&db.pool, &order()).await.unwrap(), 3);
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await), (0, 0));
        assert_eq!(emit(&db.pool, &order(), named("n")).await.unwrap(), Emitted::Tombstoned);
        db.run("UPDATE eventbox_state SET updated_at_us = updated_at_us - 3600000001").await;
        assert_eq!(admin::forget(&db.pool, &order()).await.unwrap(), admin::Forgotten::Done);
    }

    async fn a_reducer_sets_timers(db) {
        struct Patient;
        impl Reducer for Patient {
            type State = u64;
            fn reduce(&self, to: &Recipient, events: &[Event], state: u64) -> Result<Outcome<u64>, BoxError> {
                let reminder = Event::new("reminder").named("reminder").due_in(HOUR);
                Ok(Outcome::to(state + 1).consuming(events).emitting([(to.clone(), reminder)]))
            }
        }
        emit(&db.pool, &order(), Event::new("start")).await.unwrap();
        let rehearsed =
            testing::rehearse(&db.pool, &order(), &::eventbox::ReducerAsProcessor::new(&Patient), MANY).await.unwrap();
        let (_, reminder) = &rehearsed.unwrap().emitted[0];
        assert!(matches!(reminder.due(), Some(Due::At(at)) if at > SystemTime::now() + HOUR / 2));
        assert_eq!(db.count("eventbox_timer").await, 0);
        assert_eq!(reduce_batch(&db.pool, &order(), &Patient, MANY).await.unwrap().number, Some(1));
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await), (1, 0));
        assert!(cancel(&db.pool, &order(), "reminder").await.unwrap());
    }

    /// Movers, cancellers, re-senders and a pruner without a delay run at the same time. Each timer fires once or is
    /// cancelled, and its name stays taken.
    async fn racing_movers_cancellers_resenders_and_pruners(db) {
        const TIMERS: usize = 300;
        let to = |n: usize| Recipient::new("order", (n % 7).to_string()).unwrap();
        let name = |n: usize| format!("n{n}");
        let events: Vec<_> =
            (0..TIMERS).map(|n| (to(n), Event::new(name(n)).named(name(n)).due_at(SystemTime::UNIX_EPOCH))).collect();
        emit_all(&db.pool, &events).await.unwrap();
        let mut movers = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let pool = db.open(1);
            movers.spawn(async move {
                let mut total = 0;
                loop {
                    match move_due(&pool, &all_shards(), NonZeroU32::new(9).unwrap()).await {
                        Ok(moved) if moved.moved == 0 && moved.next_in.is_none() => return total,
                        Ok(moved) => total += moved.moved,
                        Err(error) => assert!(error.is_transient(), "{error:?}"),
                    }
                }
            });
        }
        let pool = db.open(1);
        let canceller = tokio::spawn(async move {
            let mut total = 0;
            for n in (0..TIMERS).rev().step_by(2) {
                total += u64::from(cancel(&pool, &to(n), &name(n)).await.unwrap());
            }
            total
        });
        let pool = db.open(1);
        let resender = tokio::spawn(async move {
            // The test never cancels the even timers.
            for n in (0..TIMERS).step_by(2) {
                assert_eq!(emit(&pool, &to(n), Event::new("again").named(name(n))).await.unwrap(), Emitted::Duplicate);
            }
        });
        let config = PrunerConfig::default().with_tombstone_delay(HOUR);
        let pruner = Pruner::new(db.open(1), config);
        for _ in 0..5 {
            pruner.run_once().await.unwrap();
        }
        resender.await.unwrap();
        let cancelled = canceller.await.unwrap();
        let moved: u64 = movers.join_all().await.into_iter().sum();
        assert_eq!(moved + cancelled, TIMERS as u64);
        assert_eq!(db.count("eventbox_event").await, moved as i64);
        assert_eq!(pruner.run_once().await.unwrap().deleted, 0);
        let stamped = db.number("SELECT count(*) FROM eventbox_tombstone WHERE gone_at_us IS NOT NULL").await;
        assert_eq!(stamped, cancelled as i64, "only what was cancelled is gone");
    }

    /// A named timer is in an open transaction of a user. A second copy waits for the outcome, and returns it.
    async fn a_second_copy_waits_for_a_timer_that_is_not_committed(db) {
        for commits in [false, true] {
            let mut user = ::eventbox::begin(&db.pool).await.unwrap();
            emit(&mut *user, &order(), named("n")).await.unwrap();
            let other = db.open(1);
            let second = tokio::spawn(async move { emit(&other, &order(), named("n")).await.unwrap().emitted() });
            if Engine::FOLDER == "postgres" {
                someone_waits(db).await;
            }
            let wanted = if commits { Emitted::Duplicate } else { Emitted::Added };
            if commits { user.commit().await.unwrap() } else { user.rollback().await.unwrap() }
            assert_eq!(second.await.unwrap(), wanted);
            assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_tombstone").await), (1, 1));
            db.run("DELETE FROM eventbox_timer").await;
            db.run("DELETE FROM eventbox_tombstone").await;
        }
    }
}

async fn someone_waits<B: CellEngine>(db: &TestDb<B>) {
    eventually(SOON, async || db.number(LOCK_WAITS).await > 0).await;
}

/// Races in a fixed order that only an engine with many writers can have.
#[cfg(feature = "postgres")]
mod on_postgres {
    use sqlx::Postgres;

    use super::*;
    use crate::support::with_database;

    /// A cancellation in an open transaction holds its timer. The move takes the other timers without waiting. The held
    /// timer fires if the cancellation rolls back, and does not if it commits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_move_does_not_wait_for_a_cancellation() {
        with_database("a_move_does_not_wait", async |db: &TestDb<Postgres>| {
            for (commits, left) in [(false, 1), (true, 0)] {
                for name in ["a", "b"] {
                    let event = Event::new(name).named(format!("{name}{left}")).due_at(SystemTime::UNIX_EPOCH);
                    emit(&db.pool, &order(), event).await.unwrap();
                }
                let mut user = ::eventbox::begin(&db.pool).await.unwrap();
                assert!(cancel(&mut *user, &order(), &format!("a{left}")).await.unwrap());
                assert_eq!(move_all(db, 10).await.moved, 1);
                assert_eq!(values(&drain(&db.pool, &order()).await), ["b"]);
                if commits {
                    user.commit().await.unwrap();
                } else {
                    user.rollback().await.unwrap();
                }
                assert_eq!(move_all(db, 10).await.moved, left);
                drain(&db.pool, &order()).await;
            }
        })
        .await;
    }

    /// The move is in flight. A cancel, a purge or a forget waits, or sees the timer in one place or the other. No
    /// timer is lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cancellation_waits_for_a_move_under_way() {
        with_database("a_cancellation_waits", async |db: &TestDb<Postgres>| {
            // A trigger that waits for a lock delays the commit of the move.
            db.run(
                "CREATE TABLE gate (x int); INSERT INTO gate VALUES (1);
                 CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF new.recipient = ''order/7'' THEN PERFORM * FROM gate FOR UPDATE; END IF; RETURN new; END';
                 CREATE TRIGGER wait AFTER INSERT ON eventbox_event FOR EACH ROW EXECUTE FUNCTION wait()",
            )
            .await;
            for purges in [false, true] {
                let name = format!("n{purges}");
                emit(&db.pool, &order(), Event::new("x").named(&name).due_at(SystemTime::UNIX_EPOCH)).await.unwrap();
                let id = timers(&db.pool, &order(), None, 1).await.unwrap()[0].id();
                let mut gate = db.pool.begin().await.unwrap();
                sqlx::raw_sql("SELECT * FROM gate FOR UPDATE").execute(&mut *gate).await.unwrap();
                let pool = db.open(1);
                let mover = tokio::spawn(async move { move_due(&pool, &all_shards(), MANY).await.unwrap().moved });
                someone_waits(db).await;
                assert_eq!(move_all(db, 10).await.moved, 0, "another move leaves it alone");
                assert_eq!(emit(&db.pool, &order(), named(&name)).await.unwrap(), Emitted::Duplicate);
                assert_eq!(prune(db).await[0], u64::from(purges), "it lives; the one that was purged before does not");
                let pool = db.open(1);
                let other = tokio::spawn(async move {
                    if purges {
                        admin::purge(&pool, &order(), &[id]).await.unwrap() == 1
                    } else {
                        cancel(&pool, &order(), &name).await.unwrap()
                    }
                });
                eventually(SOON, async || db.number(LOCK_WAITS).await == 2).await;
                gate.commit().await.unwrap();
                assert_eq!(mover.await.unwrap(), 1);
                assert_eq!(other.await.unwrap(), purges, "too late to cancel it, never too late to purge it");
                assert_eq!(db.count("eventbox_event").await, i64::from(!purges));
                drain(&db.pool, &order()).await;
            }
        })
        .await;
    }
}
