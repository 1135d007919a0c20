//! Races in a fixed order: the test puts the other transaction between two steps of the turn.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;

use eventbox::{Emitted, Event, Mutation, Recipient, Transition};
use futures_util::future::join_all;

use crate::support::{CellEngine, Cells, TestDb, create_cells, drain, noting, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell(key: u32) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

async fn state_of<B: CellEngine>(db: &TestDb<B>, to: &Recipient) -> (i64, i64) {
    B::load(&mut *db.pool.acquire().await.unwrap(), to.as_str()).await.unwrap()
}

/// Consumes all events, adds their number to the population, and writes a note for each event.
fn adding<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| match events {
        [] => Ok(Mutation::none()),
        events => {
            let notes = events.iter().map(|event| Some(noting(String::from_utf8_lossy(event.value()))));
            let effect = eventbox::SideEffect::chain(notes);
            Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
        }
    })
}

on_every_engine! {
    /// Two turns list the same event and keep the state. The other turn commits before this turn begins its
    /// transaction, so this turn has no side effect.
    async fn a_side_effect_of_a_turn_that_lost_does_not_happen(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(1), Event::new("publish me")).await.unwrap();
        let stay = || Cells::<Engine>::deciding(|_, events, _| match events {
            [] => Ok(Mutation::none()),
            events => Ok(Transition::stay().consuming(events).side_effect(noting("published")).into()),
        });
        let other = db.open(1);
        let loser = stay().before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    assert_eq!(eventbox::process_batch(&other, &cell(1), &stay(), MANY).await.unwrap().number, Some(1));
                }
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &loser, MANY).await.unwrap();
        assert_eq!((turn.number, turn.contention), (None, 1));
        assert_eq!((db.count("effect").await, db.count("eventbox_event").await), (1, 0));
    }

    /// Another turn commits between the load of the state and the listing, or between the listing and the commit. The
    /// turn starts again in both cases.
    async fn an_event_is_never_applied_to_a_state_that_has_it_already(db) {
        for between_load_and_list in [true, false] {
            let to = cell(u32::from(between_load_and_list));
            if between_load_and_list {
                create_cells(db).await;
            }
            eventbox::emit(&db.pool, &to, Event::new("once")).await.unwrap();
            let (other, key) = (db.open(1), to.clone());
            let foreign_turn = move |attempt| {
                let (other, key) = (other.clone(), key.clone());
                async move {
                    if attempt == 1 {
                        let _ = eventbox::process_batch(&other, &key, &adding::<Engine>(), MANY).await.unwrap();
                        eventbox::emit(&other, &key, Event::new("later")).await.unwrap();
                    }
                }
            };
            let ours = match between_load_and_list {
                true => adding::<Engine>().after_load(foreign_turn),
                false => adding::<Engine>().before_deciding(foreign_turn),
            };
            let turn = eventbox::process_batch(&db.pool, &to, &ours, MANY).await.unwrap();
            assert_eq!((turn.number, turn.consumed, turn.contention), (Some(2), 1, 1));
            assert_eq!(state_of(db, &to).await, (2, 2));
        }
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'once'").await, 2);
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'later'").await, 2);
    }

    /// A state that goes from A to B and back to A in one decision is saved once, with a new version.
    async fn a_state_that_comes_back_is_a_change(db) {
        create_cells(db).await;
        let there_and_back =
            Cells::<Engine>::deciding(|_, _, _| Ok(Mutation::none().then(Transition::to(5)).then(Transition::to(0))));
        let _ = eventbox::process_batch(&db.pool, &cell(1), &there_and_back, MANY).await.unwrap();
        assert_eq!((state_of(db, &cell(1)).await, there_and_back.saves.load(Ordering::SeqCst)), ((0, 1), 1));
    }

    /// Each of two processors calls the other's event garbage. Only one of them commits, so one event takes effect.
    async fn two_that_disagree_about_garbage_do_not_lose_both(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(1), Event::new("A")).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), Event::new("B")).await.unwrap();
        let keeping = |kept: &'static [u8]| Cells::<Engine>::deciding(move |_, events, _| {
            let (keep, garbage): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.value() == kept);
            let Some(event) = keep.first() else { return Ok(Mutation::none()) };
            let effect = noting(String::from_utf8_lossy(event.value()));
            Ok(Mutation::from(Transition::stay().consuming(keep).side_effect(effect)).garbage(garbage))
        });
        let other = db.open(1);
        let ours = keeping(b"A").before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    let _ = eventbox::process_batch(&other, &cell(1), &keeping(b"B"), MANY).await.unwrap();
                }
            }
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &ours, MANY).await.unwrap();
        assert_eq!((turn.number, db.count("effect").await, db.count("eventbox_event").await), (None, 1, 0));
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'B'").await, 1);
    }

    /// A re-send under the same name is refused before the turn and after the turn. The first value counts.
    async fn a_name_that_is_sent_again_changes_nothing(db) {
        create_cells(db).await;
        let again = |value: &'static str| Event::new(value).named("order-7");
        assert_eq!(eventbox::emit(&db.pool, &cell(1), again("first")).await.unwrap(), Emitted::Added);
        let sender = db.open(1);
        let ours = adding::<Engine>().before_deciding(move |_| {
            let sender = sender.clone();
            async move {
                let answer = eventbox::emit(&sender, &cell(1), Event::new("second").named("order-7")).await.unwrap();
                assert_eq!(answer, Emitted::Duplicate);
            }
        });
        let _ = eventbox::process_batch(&db.pool, &cell(1), &ours, MANY).await.unwrap();
        assert_eq!(eventbox::emit(&db.pool, &cell(1), again("third")).await.unwrap(), Emitted::Tombstoned);
        let answers =
            eventbox::emit_all(&db.pool, &[(cell(1), again("fourth")), (cell(2), again("another box"))]).await.unwrap();
        assert_eq!(answers, [Emitted::Tombstoned, Emitted::Added]);
        assert_eq!(eventbox::process_batch(&db.pool, &cell(1), &adding::<Engine>(), MANY).await.unwrap().number, None);
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'first'").await, 1);
        assert_eq!(db.count("effect").await, 1);
    }

    /// A sender that stops waiting after any poll can send again: the event is in the box once. `lost_answer.rs` has
    /// the reply lost on the wire.
    async fn a_sender_that_gave_up_sends_again(db) {
        use std::task::Poll;
        for polls in 0..12 {
            let event = Event::new("once").named(format!("order-{polls}"));
            let to = cell(1);
            let mut sending = Box::pin(Engine::emit_on(&db.pool, &to, event.clone()));
            let mut left = polls;
            std::future::poll_fn(|context| match sending.as_mut().poll(context) {
                Poll::Pending if left > 0 => {
                    left -= 1;
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            })
            .await;
            drop(sending);
            eventbox::emit(&db.pool, &to, event.clone()).await.unwrap();
            assert_eq!(eventbox::emit(&db.pool, &to, event).await.unwrap(), Emitted::Duplicate);
            assert_eq!(
                db.number(format_args!("SELECT count(*) FROM eventbox_event WHERE name = 'order-{polls}'")).await,
                1
            );
        }
        assert_eq!(drain(&db.pool, &cell(1)).await.len(), 12);
    }

    /// Events that a processor leaves for later do not hide the events behind them. The pages over them end.
    async fn events_that_are_left_hide_nothing(db) {
        create_cells(db).await;
        let left: Vec<_> = (0..25).map(|_| (cell(1), Event::new("later"))).collect();
        eventbox::emit_all(&db.pool, &left).await.unwrap();
        let picky = Cells::<Engine>::deciding(|_, events, _| {
            Ok(Transition::stay().consuming(events.iter().filter(|event| event.value() == b"now")).into())
        });
        let ten = NonZeroU32::new(10).unwrap();
        let idle = eventbox::process_batch(&db.pool, &cell(1), &picky, ten).await.unwrap();
        assert_eq!((idle.number, idle.more_remain, picky.loads.load(Ordering::SeqCst)), (None, false, 3));
        eventbox::emit(&db.pool, &cell(1), Event::new("now")).await.unwrap();
        let turn = eventbox::process_batch(&db.pool, &cell(1), &picky, ten).await.unwrap();
        assert_eq!((turn.number, turn.consumed), (Some(1), 1));
        assert_eq!(db.count("eventbox_event").await, 25);
    }

    /// Processors race over six boxes. Every event is consumed once, in the order of the emits.
    async fn racing_processors_consume_everything_once(db) {
        const RECIPIENTS: u32 = 6;
        const EVENTS: u32 = 120;
        create_cells(db).await;
        for to in 0..RECIPIENTS {
            let events: Vec<_> = (0..EVENTS).map(|n| (cell(to), Event::new(format!("{to}/{n:03}")))).collect();
            eventbox::emit_all(&db.pool, &events).await.unwrap();
        }
        let few = NonZeroU32::new(13).unwrap();
        let racers = (0..8).map(|_| {
            let pool = db.open(1);
            async move {
                let cells = adding::<Engine>();
                for to in (0..RECIPIENTS).map(cell) {
                    loop {
                        match eventbox::process_batch(&pool, &to, &cells, few).await {
                            Ok(turn) if !turn.more_remain => break,
                            Ok(_) => {}
                            Err(error) => assert!(error.is_contention(), "{error}"),
                        }
                    }
                }
            }
        });
        join_all(racers).await;
        assert_eq!((db.count("eventbox_event").await, db.count("effect").await), (0, i64::from(RECIPIENTS * EVENTS)));
        assert_eq!(db.number("SELECT count(DISTINCT text) FROM effect").await, i64::from(RECIPIENTS * EVENTS));
        for to in (0..RECIPIENTS).map(cell) {
            let (population, eversion) = state_of(db, &to).await;
            assert_eq!(population, i64::from(EVENTS));
            let turn = db.number(format_args!("SELECT turn FROM eventbox_state WHERE recipient = '{to}'")).await;
            assert_eq!(turn, eversion, "turns are numbered without a gap");
        }
    }

    /// Eight senders send the same names at the same time, singly and in lists. Each name is in the box once.
    async fn racing_senders_add_each_name_once(db) {
        let senders = (0..8).map(|sender| {
            let pool = db.open(1);
            async move {
                let mut added = 0;
                for chunk in 0..5 {
                    let names = (0..20).map(|n| (cell(n % 3), Event::new("x").named(format!("{chunk}-{n}"))));
                    let events: Vec<_> = if sender % 2 == 0 { names.collect() } else { names.rev().collect() };
                    if sender < 6 {
                        let answers = eventbox::emit_all(&pool, &events).await.unwrap();
                        added += answers.iter().filter(|answer| **answer == Emitted::Added).count();
                    } else {
                        for (to, event) in events {
                            added += usize::from(eventbox::emit(&pool, &to, event).await.unwrap() == Emitted::Added);
                        }
                    }
                }
                added
            }
        });
        let added: usize = join_all(senders).await.into_iter().sum();
        assert_eq!((added, db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (100, 100, 100));
    }
}

/// Races that only an engine with many writers can have.
#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use crate::support::{LOCK_WAITS, SOON, eventually, with_database};

    type Engine = sqlx::Postgres;

    /// Two transactions emit to the same boxes in opposite order. Neither waits for the other, so they cannot deadlock.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn emitters_do_not_wait_for_each_other() {
        with_database("emitters_do_not_wait_for_each_other", async |db: &TestDb<Engine>| {
            let (mut first, mut second) =
                (eventbox::begin(&db.pool).await.unwrap(), eventbox::begin(&db.pool).await.unwrap());
            for (a, b) in [(1, 2), (2, 1)] {
                Engine::emit(&mut first, &cell(a), Event::new("from the first")).await.unwrap();
                Engine::emit(&mut second, &cell(b), Event::new("from the second")).await.unwrap();
            }
            first.commit().await.unwrap();
            second.commit().await.unwrap();
            assert_eq!(drain(&db.pool, &cell(1)).await.len() + drain(&db.pool, &cell(2)).await.len(), 4);
        })
        .await;
    }

    /// The first sender of a name has not committed. The second sender of that name waits for the outcome, and returns
    /// the true result.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_copy_waits_for_the_first() {
        with_database("a_second_copy_waits_for_the_first", async |db: &TestDb<Engine>| {
            for first_commits in [true, false] {
                let name = format!("order-{first_commits}");
                let mut tx = eventbox::begin(&db.pool).await.unwrap();
                Engine::emit(&mut tx, &cell(1), Event::new("first").named(name.as_str())).await.unwrap();
                let (pool, copy) = (db.open(1), Event::new("second").named(name.as_str()));
                let waiting = tokio::spawn(async move { eventbox::emit(&pool, &cell(1), copy).await.unwrap() });
                eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
                match first_commits {
                    true => tx.commit().await.unwrap(),
                    false => tx.rollback().await.unwrap(),
                }
                let wanted = if first_commits { Emitted::Duplicate } else { Emitted::Added };
                assert_eq!(waiting.await.unwrap(), wanted);
            }
            let values: Vec<_> = drain(&db.pool, &cell(1)).await.iter().map(|event| event.value().to_vec()).collect();
            assert_eq!(values, [b"first".to_vec(), b"second".to_vec()]);
        })
        .await;
    }
}
