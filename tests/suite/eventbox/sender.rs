//! The sender: groups, their bounds, and failures of other events in the same group.

use std::num::NonZeroU32;
use std::time::Duration;

use ::eventbox::{Emitted, Error, Event, Misuse, Recipient, Sender, SenderConfig, emit, timer::cancel};
use tokio::task::JoinSet;

use crate::support::{CellEngine, SOON, TestDb, TestEngine, drain, eventually, on_every_engine};

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn values(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| str::from_utf8(event.value()).unwrap()).collect()
}

/// Refuses events that ask for it, like a constraint that a user added to the table.
async fn refuse_bad_events<B: TestEngine>(db: &TestDb<B>) {
    db.run(match B::FOLDER {
        "postgres" => "ALTER TABLE eventbox_event ADD CHECK (value <> 'bad')",
        _ => {
            "CREATE TRIGGER bad BEFORE INSERT ON eventbox_event WHEN new.value = CAST('bad' AS BLOB)
             BEGIN SELECT RAISE(ABORT, 'bad'); END"
        }
    })
    .await;
}

on_every_engine! {
    async fn concurrent_emits_are_grouped_and_each_has_its_answer(db) {
        emit(&db.pool, &order(), Event::new("x").named("consumed")).await.unwrap();
        drain(&db.pool, &order()).await;
        let sender = Sender::new(db.pool.clone());
        let mut tasks = JoinSet::new();
        for n in 0..200_u32 {
            let sender = sender.clone();
            let to = Recipient::new("order", (n % 9).to_string()).unwrap();
            tasks.spawn(async move {
                let event = Event::new(n.to_string());
                let event = match n % 4 {
                    0 => event.named(format!("n{n}")),
                    1 => event.named(format!("t{n}")).due_in(Duration::from_secs(3_600)),
                    _ => event,
                };
                assert_eq!(sender.emit(&to, event).await.unwrap(), Emitted::Added);
                if n % 4 == 0 {
                    let again = sender.emit(&to, Event::new("").named(format!("n{n}"))).await.unwrap();
                    assert_eq!(again, Emitted::Duplicate);
                }
            });
        }
        tasks.join_all().await;
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (150, 50));
        assert_eq!(sender.emit(&order(), Event::new("").named("consumed")).await.unwrap(), Emitted::Tombstoned);
        assert!(cancel(&db.pool, &Recipient::new("order", "1").unwrap(), "t1").await.unwrap());
    }

    /// Of two copies of a name in one group the first is added, and the other is a duplicate.
    async fn copies_in_one_group_are_one_event(db) {
        let sender = Sender::new(db.pool.clone());
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let sender = sender.clone();
            tasks.spawn(async move { sender.emit(&order(), Event::new("x").named("n")).await.unwrap().emitted() });
        }
        let answers = tasks.join_all().await;
        assert_eq!(answers.iter().filter(|answer| **answer == Emitted::Added).count(), 1);
        assert_eq!(answers.iter().filter(|answer| **answer == Emitted::Duplicate).count(), 49);
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    async fn the_order_of_a_task_is_the_order_of_listing(db) {
        let config = SenderConfig::default().with_group_events(number(7));
        let sender = Sender::with(db.pool.clone(), config);
        let event = |n: u32| match n % 3 {
            0 => Event::new(n.to_string()).named(format!("{:04}", 9_999 - n)),
            _ => Event::new(n.to_string()),
        };
        for n in 0..20 {
            sender.emit(&order(), event(n)).await.unwrap();
        }
        let to = order();
        let at_once = (20..100).map(|n| sender.emit(&to, event(n)));
        futures_util::future::try_join_all(at_once).await.unwrap();
        let wanted: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(values(&drain(&db.pool, &order()).await), wanted);
    }

    /// An event that breaks a group fails alone.
    async fn a_bad_event_does_not_fail_the_rest_of_its_group(db) {
        refuse_bad_events(db).await;
        let sender = Sender::new(db.pool.clone());
        let mut tasks = JoinSet::new();
        for n in 0..60 {
            let sender = sender.clone();
            tasks.spawn(async move {
                let event = Event::new(if n % 20 == 0 { "bad" } else { "good" });
                let event = if n % 2 == 0 { event.named(n.to_string()) } else { event };
                let answer = sender.emit(&order(), event).await;
                match n % 20 {
                    0 => assert!(matches!(answer, Err(Error::Database { .. })), "{answer:?}"),
                    _ => assert_eq!(answer.unwrap(), Emitted::Added),
                }
            });
        }
        tasks.join_all().await;
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (57, 27));
        let error = sender.emit(&order(), Event::new("").named("")).await.unwrap_err();
        assert!(matches!(error, Error::Misuse { misuse: Misuse::Empty { .. }, .. }), "{error:?}");
    }

    /// Another writer is in a long transaction. The queue fills, and the next emit waits for room. Emits whose callers
    /// gave up have no effect.
    async fn a_full_queue_holds_its_callers_back(db) {
        let config = SenderConfig::default().with_queue_events(number(3));
        let sender = Sender::with(db.open(2), config);
        let mut user = ::eventbox::begin(&db.pool).await.unwrap();
        Engine::emit(&mut user, &order(), Event::new("first").named("n")).await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            let sender = sender.clone();
            tasks.spawn(async move { sender.emit(&order(), Event::new("x").named("n")).await.unwrap().emitted() });
        }
        // All room is taken when an emit does not get through in the time that all others of this test take.
        eventually(SOON, async || {
            let (other, event) = (order(), Event::new("gave up"));
            tokio::time::timeout(Duration::from_millis(200), sender.emit(&other, event)).await.is_err()
        })
        .await;
        user.commit().await.unwrap();
        assert_eq!(tasks.join_all().await, [Emitted::Duplicate; 3]);
        let heavy = Event::new(vec![0; 1 << 20]);
        assert_eq!(sender.emit(&order(), heavy).await.unwrap(), Emitted::Added);
    }

    async fn stopping_drains_and_then_refuses(db) {
        let sender = Sender::new(db.pool.clone());
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let sender = sender.clone();
            tasks.spawn(async move { sender.emit(&order(), Event::new("x")).await });
        }
        eventually(SOON, async || db.count("eventbox_event").await > 0).await;
        assert_eq!(sender.stop(SOON).await.left, 0);
        let answers = tasks.join_all().await;
        let added = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(db.count("eventbox_event").await, added as i64);
        for error in answers.into_iter().filter_map(Result::err) {
            assert!(matches!(error, Error::Misuse { misuse: Misuse::Stopped { .. }, .. }), "{error:?}");
        }
        assert!(sender.emit(&order(), Event::new("late")).await.is_err());
        assert_eq!(sender.stop(SOON).await.left, 0);
    }

    async fn every_caller_gets_the_error_of_a_closed_pool(db) {
        let pool = db.open(1);
        let sender = Sender::new(pool.clone());
        pool.close().await;
        for event in [Event::new("x"), Event::new("x").named("n")] {
            let error = sender.emit(&order(), event).await.unwrap_err();
            assert!(matches!(error, Error::Transient { .. }), "{error:?}");
            assert!(error.to_string().contains("order/7"), "{error}");
        }
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use sqlx::Postgres;

    use super::*;
    use crate::support::proxy::{Fate, Message, Proxy};
    use crate::support::with_database;

    /// An open transaction of a user holds a name. The other events of the group proceed, and the held event ends when
    /// that transaction ends.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_held_name_delays_no_other_event() {
        with_database("a_name_that_is_held", async |db: &TestDb<Postgres>| {
            for commits in [true, false] {
                let mut user = ::eventbox::begin(&db.pool).await.unwrap();
                let held = format!("held{commits}");
                emit(&mut *user, &order(), Event::new("user's").named(&held)).await.unwrap();
                let sender = Sender::new(db.open(4));
                let waiting = {
                    let (sender, held) = (sender.clone(), held.clone());
                    tokio::spawn(
                        async move { sender.emit(&order(), Event::new("x").named(held)).await.unwrap().emitted() },
                    )
                };
                let mut tasks = JoinSet::new();
                for n in 0..100 {
                    let sender = sender.clone();
                    tasks.spawn(async move {
                        let event = Event::new("x");
                        let event = if n % 2 == 0 { event.named(format!("{commits}{n}")) } else { event };
                        sender.emit(&order(), event).await.unwrap().emitted()
                    });
                }
                assert_eq!(tasks.join_all().await, [Emitted::Added; 100]);
                assert!(!waiting.is_finished());
                assert_eq!(sender.stop(Duration::ZERO).await.left, 1);
                if commits {
                    user.commit().await.unwrap();
                } else {
                    user.rollback().await.unwrap();
                }
                assert_eq!(waiting.await.unwrap(), if commits { Emitted::Duplicate } else { Emitted::Added });
            }
            assert_eq!(db.count("eventbox_event").await, 202);
        })
        .await;
    }

    /// A name that stays held is contention in the end, and its event is not stored.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_name_that_stays_held_is_contention() {
        with_database("a_name_that_stays_held", async |db: &TestDb<Postgres>| {
            let mut user = ::eventbox::begin(&db.pool).await.unwrap();
            emit(&mut *user, &order(), Event::new("user's").named("n")).await.unwrap();
            let config = SenderConfig::default().with_retry_for(Duration::from_millis(200));
            let error = Sender::with(db.open(2), config).emit(&order(), Event::new("x").named("n")).await.unwrap_err();
            assert!(error.is_contention(), "{error:?}");
            user.rollback().await.unwrap();
            assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (0, 0));
        })
        .await;
    }

    /// The connection dies in the middle of a group, before or after its commit. Each event without a name is unknown.
    /// Named events are sent again, are stored once, and return `Added`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_answer_is_unknown_or_settled_by_the_name() {
        with_database("a_lost_answer_of_a_group", async |db: &TestDb<Postgres>| {
            for (fate, there) in [(Fate::AnswerLost, 1), (Fate::CutBefore, 0)] {
                let proxy = Proxy::start(db.options()).await;
                let sender = Sender::new(proxy.pool().await);
                proxy.next(Message::Execute, fate);
                let error = sender.emit(&order(), Event::new("unnamed")).await.unwrap_err();
                assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
                assert_eq!(drain(&db.pool, &order()).await.len(), there);
            }
            for (round, fate) in [Fate::AnswerLost, Fate::CutBefore].into_iter().enumerate() {
                let proxy = Proxy::start(db.options()).await;
                let sender = Sender::new(proxy.pool().await);
                proxy.next(Message::Execute, fate);
                let to = order();
                let named = (0..10).map(|n| sender.emit(&to, Event::new("x").named(format!("{round}-{n}"))));
                for receipt in futures_util::future::try_join_all(named).await.unwrap() {
                    assert_eq!(receipt, Emitted::Added);
                }
                proxy.cut(1).await;
                assert_eq!(drain(&db.pool, &order()).await.len(), 10);
            }
        })
        .await;
    }

    /// Groups stay within their bounds.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn groups_are_bounded() {
        with_database("groups_are_bounded", async |db: &TestDb<Postgres>| {
            // One statement is one transaction, whose number its rows carry.
            db.run("ALTER TABLE eventbox_event ADD COLUMN tx text DEFAULT pg_current_xact_id()::text").await;
            let config = SenderConfig::default().with_group_events(number(5)).with_group_bytes(number(100));
            let sender = Sender::with(db.pool.clone(), config);
            let to = order();
            let light = (0..50).map(|_| sender.emit(&to, Event::new("x")));
            futures_util::future::try_join_all(light).await.unwrap();
            let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM eventbox_event GROUP BY tx) x";
            assert_eq!(db.number(most).await, 5);
            db.run("DELETE FROM eventbox_event").await;
            let heavy = (0..50).map(|n| sender.emit(&to, Event::new(vec![0; if n % 2 == 0 { 40 } else { 1_000 }])));
            futures_util::future::try_join_all(heavy).await.unwrap();
            assert_eq!(db.number(most).await, 1);
        })
        .await;
    }
}
