//! The rules of a turn, one by one: a test breaks each rule at a named step, and the library must notice.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use eventbox::testing::Clock;
use eventbox::{Emitted, Event, Mutation, Recipient, SideEffect, Transition, Turn, admin};
use tokio::sync::oneshot;

use crate::support::{
    CellEngine, Cells, Decider, LOCK_WAITS, SOON, TestEngine, create_cells, drain, effects, eventually, noting,
    on_every_engine,
};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell(key: u32) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

/// Consumes all events, and writes a note for each event.
fn taking<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| match events {
        [] => Ok(Mutation::none()),
        events => {
            let notes = events.iter().map(|event| Some(noting(String::from_utf8_lossy(event.value()))));
            let effect = SideEffect::chain(notes);
            Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
        }
    })
}

/// Returns a clock that shows the time of one hour ago, plus some seconds.
fn hour_ago(later_s: u64) -> Clock {
    Clock::at(SystemTime::now() - Duration::from_secs(3_600) + Duration::from_secs(later_s))
}

/// Runs a foreign statement that breaks the rules, while the first attempt of a turn decides.
async fn meddled<B: CellEngine>(db: &crate::support::TestDb<B>, sql: &'static str) -> Turn {
    let other = db.open(1);
    let cells = taking::<B>().before_deciding(move |attempt| {
        let other = other.clone();
        async move {
            if attempt == 1 {
                B::run(&other, sql.to_owned()).await.unwrap();
            }
        }
    });
    eventbox::process_batch(&db.pool, &cell(1), &cells, MANY).await.unwrap()
}

/// A turn that stops inside its own transaction, reports that, and continues when the test allows it.
fn stopping<B: CellEngine>(stopped: oneshot::Sender<()>, go_on: oneshot::Receiver<()>) -> Cells<B> {
    let steps = Mutex::new(Some((stopped, go_on)));
    Cells::deciding(move |_, events, population| {
        let (stopped, go_on) = steps.lock().unwrap().take().ok_or("it is not overtaken")?;
        let stop = SideEffect::new(move |_tx| {
            Box::pin(async move {
                stopped.send(()).unwrap();
                Ok(go_on.await?)
            })
        });
        let effect = SideEffect::chain([Some(noting("ours")), Some(stop)]);
        Ok(Transition::to(population + 1).consuming(events).side_effect(effect).into())
    })
}

on_every_engine! {
    /// The row of the turn is the lock. Two turns have listed the same event, and the second waits for the first: at
    /// the first turn (an insert) and at a later turn (an update). The second then has no effect.
    async fn of_two_transactions_at_once_the_second_does_nothing(db) {
        create_cells(db).await;
        for number in [1, 2] {
            eventbox::emit(&db.pool, &cell(1), Event::new("theirs")).await.unwrap();
            let (stopped, has_stopped) = oneshot::channel();
            let (go_on, may_go_on) = oneshot::channel();
            let (decided, has_decided) = oneshot::channel();
            let decided = Mutex::new(Some(decided));
            // This entity has no state of its own, so the second turn waits only for the row of the turn.
            let rival = Decider(move |events: &[Event]| -> Mutation<Engine, ()> {
                decided.lock().unwrap().take().into_iter().for_each(|decided| decided.send(()).unwrap());
                Transition::stay().consuming(events).side_effect((!events.is_empty()).then(|| noting("theirs"))).into()
            });
            let (ours, other, to) = (stopping::<Engine>(stopped, may_go_on), db.open(1), cell(1));
            let (ours, theirs, ()) = tokio::join!(
                eventbox::process_batch(&db.pool, &to, &ours, MANY),
                async {
                    has_stopped.await.unwrap();
                    eventbox::process_batch(&other, &to, &rival, MANY).await
                },
                async {
                    has_decided.await.unwrap();
                    if Engine::FOLDER == "postgres" {
                        eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
                    }
                    go_on.send(()).unwrap();
                }
            );
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!((ours.number, ours.consumed, ours.contention), (Some(number), 1, 0));
            assert_eq!(
                (theirs.number, theirs.contention),
                (None, 1),
                "it was contention once, and then there was nothing left"
            );
            assert_eq!(effects(db).await, vec!["ours"; number as usize]);
        }
    }

    /// A foreign statement removed an event without a change of the turn. The count of removed rows shows that the
    /// event is missing.
    async fn an_event_that_vanished_is_missed(db) {
        create_cells(db).await;
        for value in ["stays", "vanishes"] {
            eventbox::emit(&db.pool, &cell(1), Event::new(value).named(value)).await.unwrap();
        }
        let turn = meddled(db, "DELETE FROM eventbox_event WHERE name = 'vanishes'").await;
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(1), 1, 1));
        assert_eq!(effects(db).await, ["stays"]);
    }

    /// The count also shows a missing event among old events, which are removed as a range.
    async fn an_old_event_that_vanished_is_missed(db) {
        create_cells(db).await;
        let values = ["first", "vanishes", "last"].map(|value| (cell(1), Event::new(value).named(value)));
        hour_ago(0).scope(eventbox::emit_all(&db.pool, &values)).await.unwrap();
        let turn = meddled(db, "DELETE FROM eventbox_event WHERE name = 'vanishes'").await;
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(1), 2, 1));
        assert_eq!(effects(db).await, ["first", "last"]);
    }

    /// An event that commits late between old events is not removed with them. The turn starts again and consumes this
    /// event too.
    async fn an_event_that_commits_late_between_old_ones_is_not_lost(db) {
        create_cells(db).await;
        for (value, later_s) in [("1", 0), ("3", 20)] {
            hour_ago(later_s).scope(eventbox::emit(&db.pool, &cell(1), Event::new(value))).await.unwrap();
        }
        let other = db.open(1);
        let cells = taking::<Engine>().before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    hour_ago(10).scope(eventbox::emit(&other, &cell(1), Event::new("2"))).await.unwrap();
                }
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &cells, MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(1), 3, 1));
        assert_eq!(effects(db).await, ["1", "2", "3"]);
    }

    /// Garbage is counted together with the consumed events, so a missing garbage event is noticed as well.
    async fn garbage_that_vanished_is_missed(db) {
        create_cells(db).await;
        for value in ["garbage", "stays"] {
            eventbox::emit(&db.pool, &cell(1), Event::new(value).named(value)).await.unwrap();
        }
        let other = db.open(1);
        let cells = Cells::<Engine>::deciding(|_, events, _| {
            let (last, garbage) = events.split_last().ok_or("an event stays")?;
            Ok(Mutation::from(Transition::to(1).consuming([last])).garbage(garbage))
        })
        .before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    Engine::run(&other, "DELETE FROM eventbox_event WHERE name = 'garbage'".to_owned()).await.unwrap();
                }
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &cells, MANY).await.unwrap();
        assert_eq!((turn.consumed, turn.garbage, turn.contention), (1, 0, 1));
    }

    /// A turn that was read and whose row is gone does not match. A missing row is not turn 0.
    async fn a_missing_row_matches_no_turn(db) {
        create_cells(db).await;
        for value in ["first", "second"] {
            eventbox::emit(&db.pool, &cell(1), Event::new(value)).await.unwrap();
            if value == "first" {
                drain(&db.pool, &cell(1)).await;
            }
        }
        let turn = meddled(db, "DELETE FROM eventbox_state").await;
        assert_eq!((turn.number, turn.contention), (Some(1), 1));
    }

    /// A row that another writer inserts while the first turn is decided is not overwritten.
    async fn a_row_that_came_first_is_not_overwritten(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(1), Event::new("x")).await.unwrap();
        let other = db.open(1);
        let cells = taking::<Engine>().before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    assert_eq!(admin::set_state(&other, &cell(1), 0, Some(b"theirs")).await.unwrap(), 1);
                }
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &cells, MANY).await.unwrap();
        assert_eq!((turn.number, turn.contention), (Some(2), 1));
        assert_eq!(admin::stored_state(&db.pool, &cell(1)).await.unwrap().state.as_deref(), Some(&b"theirs"[..]));
    }

    /// An event emitted after the listing is neither in the batch nor consumed. The next turn finds it.
    async fn an_event_that_comes_after_the_listing_waits(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(1), Event::new("listed")).await.unwrap();
        let other = db.open(1);
        let cells = taking::<Engine>().before_deciding(move |_| {
            let other = other.clone();
            async move {
                Engine::emit_on(&other, &cell(1), Event::new("later")).await.unwrap();
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &cells, MANY).await.unwrap();
        assert_eq!((turn.consumed, turn.contention), (1, 0), "an emit is no contention");
        assert_eq!(effects(db).await, ["listed"]);
        assert_eq!(drain(&db.pool, &cell(1)).await.len(), 1);
    }

    /// Senders re-send 10,000 names that are tombstones. A listing of 100 still returns the live events, oldest first,
    /// because a re-send of a tombstone inserts no row.
    async fn the_dead_do_not_hide_the_living(db) {
        let dead: Vec<_> = (0..10_000).map(|n| (cell(1), Event::new("dead").named(n.to_string()))).collect();
        eventbox::emit_all(&db.pool, &dead).await.unwrap();
        assert_eq!(admin::purge_all(&db.pool, &cell(1)).await.unwrap(), 10_000);
        assert!(eventbox::emit_all(&db.pool, &dead).await.unwrap().iter().all(|answer| *answer == Emitted::Tombstoned));
        let living: Vec<_> = (0..150).map(|n| (cell(1), Event::new(format!("{n:03}")))).collect();
        eventbox::emit_all(&db.pool, &living).await.unwrap();
        create_cells(db).await;
        let hundred = NonZeroU32::new(100).unwrap();
        let turn = eventbox::process_batch(&db.pool, &cell(1), &taking(), hundred).await.unwrap();
        assert_eq!((turn.consumed, turn.more_remain), (100, true));
        let oldest: Vec<_> = (0..100).map(|n| format!("{n:03}")).collect();
        assert_eq!(db.texts("SELECT text FROM effect ORDER BY text").await, oldest);
    }
}

/// A deadlock between side effects is contention, and the library retries contention: both turns commit.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_in_side_effects_is_contention() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Barrier;

    type Engine = sqlx::Postgres;

    fn updating(keys: [u32; 2], meet: Arc<Barrier>) -> Cells<Engine> {
        let first = AtomicBool::new(true);
        Cells::deciding(move |_, events, _| {
            if events.is_empty() {
                return Ok(Mutation::none());
            }
            let meet = first.swap(false, Ordering::SeqCst).then(|| Arc::clone(&meet));
            let effect = SideEffect::new(move |tx| {
                Box::pin(async move {
                    let update = "UPDATE shared SET n = n + 1 WHERE key = $1";
                    sqlx::query(update).bind(i64::from(keys[0])).execute(&mut *tx).await?;
                    if let Some(meet) = meet {
                        meet.wait().await;
                    }
                    sqlx::query(update).bind(i64::from(keys[1])).execute(&mut *tx).await?;
                    Ok(())
                })
            });
            Ok(Transition::stay().consuming(events).side_effect(effect).into())
        })
    }

    crate::support::with_database("a_deadlock_is_contention", async |db: &crate::support::TestDb<Engine>| {
        create_cells(db).await;
        db.run("CREATE TABLE shared (key int8 PRIMARY KEY, n int8 NOT NULL); INSERT INTO shared VALUES (1, 0), (2, 0)")
            .await;
        for key in [1, 2] {
            eventbox::emit(&db.pool, &cell(key), Event::new("x")).await.unwrap();
        }
        let meet = Arc::new(Barrier::new(2));
        let (one, two) = (updating([1, 2], Arc::clone(&meet)), updating([2, 1], meet));
        let (first, second) = (cell(1), cell(2));
        let (first, second) = tokio::join!(
            eventbox::process_batch(&db.pool, &first, &one, MANY),
            eventbox::process_batch(&db.pool, &second, &two, MANY)
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.consumed, second.consumed, first.contention + second.contention), (1, 1, 1));
        assert_eq!(db.number("SELECT min(n) FROM shared").await, 2);
        assert_eq!(db.number("SELECT max(n) FROM shared").await, 2);
    })
    .await;
}
