//! Batches that keep failing: the box is blocked, or halving finds the poison event and moves it to quarantine.

use std::num::NonZeroU32;

use eventbox::{
    Error, Event, Mutation, PoisonPolicy, Recipient, SideEffect, Transition, Turn, TurnOptions, admin,
    limits::POISON_CODE,
};
use sqlx::Pool;

use crate::support::{CellEngine, Cells, TestDb, create_cells, effects, failing, noting, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const TWICE: NonZeroU32 = NonZeroU32::new(2).unwrap();

fn cell() -> Recipient {
    Recipient::new("cell", "1").unwrap()
}

fn isolating() -> TurnOptions {
    TurnOptions::new(MANY).poison(PoisonPolicy::Isolate { after: TWICE })
}

/// Fails on any batch with an event `bad` in it. Notes every other event that it consumes, in order.
fn refusing<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| {
        if events.iter().any(|event| event.value().starts_with(b"bad")) {
            return Err("bad\0 event".into());
        }
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let notes = events.iter().map(|event| Some(noting(String::from_utf8_lossy(event.value()))));
        Ok(Transition::to(population + 1).consuming(events).side_effect(SideEffect::chain(notes)).into())
    })
}

/// Makes a transition of each event. A transition of an event `bad` fails alone.
fn independent<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| {
        Ok(events.iter().fold(Mutation::none(), |mutation, event| {
            let value = String::from_utf8_lossy(event.value()).into_owned();
            let effect = if value.starts_with("bad") { failing("bad event") } else { noting(value) };
            mutation.then(Transition::to(population + 1).consuming([event]).side_effect(effect).independent())
        }))
    })
}

async fn emit<B: CellEngine>(db: &TestDb<B>, values: impl IntoIterator<Item = &str>) {
    for value in values {
        B::emit_on(&db.pool, &cell(), Event::new(value.to_owned())).await.unwrap();
    }
}

/// Processes like the loop of a service, until the box has nothing more to do. Returns the turns and the failures.
async fn work<B: CellEngine>(pool: &Pool<B>, cells: &Cells<B>, options: &TurnOptions) -> (Vec<Turn>, Vec<Error>) {
    let (mut turns, mut errors) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        match eventbox::process_batch_with(pool, &cell(), cells, options).await {
            Ok(turn) if turn.number.is_none() => return (turns, errors),
            Ok(turn) => turns.push(turn),
            Err(error) => errors.push(error),
        }
    }
    panic!("the box is not idle after 100 calls");
}

async fn notes<B: CellEngine>(db: &TestDb<B>) -> Vec<String> {
    effects(db).await
}

async fn failures<B: CellEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await
}

on_every_engine! {
    /// One event of a thousand is poison. It is in quarantine with its reason after the second failure. All others are
    /// processed, each once and in order.
    async fn one_poison_event_is_taken_aside_and_the_rest_proceeds(db) {
        create_cells(db).await;
        let values: Vec<String> = (0..1_000).map(|n| if n == 617 { "bad".to_owned() } else { n.to_string() }).collect();
        let events: Vec<_> = values.iter().map(|value| (cell(), Event::new(value.clone()))).collect();
        let mut conn = db.pool.acquire().await.unwrap();
        Engine::emit_all(&mut conn, &events).await.unwrap();
        drop(conn);

        let (turns, errors) = work(&db.open(1), &refusing(), &isolating()).await;
        assert_eq!(errors.len(), 1, "the first failure is the caller's, the second begins the search");
        assert_eq!(turns.iter().map(|turn| turn.quarantined).sum::<usize>(), 1);
        assert_eq!(turns.iter().map(|turn| turn.consumed).sum::<usize>(), 999);
        assert!(turns.iter().rev().skip(1).all(|turn| turn.more_remain), "callers loop on");
        let numbers: Vec<_> = turns.iter().filter_map(|turn| turn.number).collect();
        assert_eq!(numbers, (1..=turns.len() as i64).collect::<Vec<_>>(), "each of them is a turn");
        assert_eq!(notes(db).await, values.iter().filter(|value| *value != "bad").cloned().collect::<Vec<_>>());

        let aside = admin::quarantined(&db.pool, &cell(), None, 10).await.unwrap();
        assert_eq!((aside.len(), aside[0].code.as_str(), aside[0].event.value()), (1, POISON_CODE, b"bad".as_slice()));
        assert!(aside[0].reason.contains("bad\u{fffd} event"), "{}", aside[0].reason);
        assert!(aside[0].attempts >= 2);
        assert_eq!(failures(db).await, 0);
    }

    /// Several poison events go to quarantine, also adjacent events and the first and the last of a box.
    async fn every_poison_event_is_found(db) {
        create_cells(db).await;
        emit(db, ["bad 1", "a", "bad 2", "bad 3", "b", "c", "bad 4"]).await;
        let (turns, _) = work(&db.pool, &refusing(), &isolating()).await;
        assert_eq!(turns.iter().map(|turn| turn.quarantined).sum::<usize>(), 4);
        assert_eq!(notes(db).await, ["a", "b", "c"]);
        let aside = admin::quarantined(&db.pool, &cell(), None, 10).await.unwrap();
        let values: Vec<_> = aside.iter().map(|dead| String::from_utf8_lossy(dead.event.value())).collect();
        assert_eq!(values, ["bad 1", "bad 2", "bad 3", "bad 4"]);
    }

    /// The database counts the failures in a row, so the processes count together. A turn resets the count.
    async fn failures_are_counted_together_and_taken_back(db) {
        create_cells(db).await;
        let options = TurnOptions::new(MANY).poison(PoisonPolicy::Isolate { after: NonZeroU32::new(3).unwrap() });
        emit(db, ["bad"]).await;
        for (other, wanted) in [(db.open(1), 1), (db.open(1), 2)] {
            eventbox::process_batch_with(&other, &cell(), &refusing(), &options).await.unwrap_err();
            assert_eq!(failures(db).await, wanted);
        }
        let standing = admin::standing(&db.pool, &cell()).await.unwrap();
        assert_eq!((standing.attempts, standing.paused), (2, false));
        // A repaired processor accepts the same events. No event was lost.
        let mended = tolerant();
        let turn = eventbox::process_batch_with(&db.pool, &cell(), &mended, &options).await.unwrap();
        assert_eq!((turn.consumed, turn.quarantined, failures(db).await), (1, 0, 0));
    }

    /// With the policy to block, the events wait in order, however often the batch fails. No failure is counted.
    async fn a_blocked_box_waits_in_order(db) {
        create_cells(db).await;
        emit(db, ["a", "bad", "b"]).await;
        for _ in 0..5 {
            let error = eventbox::process_batch(&db.pool, &cell(), &refusing(), MANY).await.unwrap_err();
            assert!(matches!(error, Error::Processor { .. }), "{error}");
        }
        assert_eq!(
            (db.count("eventbox_event").await, failures(db).await, db.count("eventbox_dead_letter").await),
            (3, 0, 0)
        );
    }

    /// A transition that fails alone lets the others commit. Its events go to quarantine after the second failure,
    /// although turns commit in between.
    async fn a_failing_transition_is_taken_aside(db) {
        create_cells(db).await;
        emit(db, ["a", "bad", "b"]).await;
        let first = eventbox::process_batch_with(&db.pool, &cell(), &independent(), &isolating()).await.unwrap();
        assert_eq!((first.consumed, first.failures.len(), first.quarantined), (2, 1, 0));
        emit(db, ["c"]).await;
        let second = eventbox::process_batch_with(&db.pool, &cell(), &independent(), &isolating()).await.unwrap();
        assert_eq!((second.consumed, second.failures.len(), second.quarantined), (1, 1, 1));
        assert_eq!(notes(db).await, ["a", "b", "c"]);
        assert_eq!((db.count("eventbox_event").await, failures(db).await), (0, 0));
        assert_eq!(admin::quarantined(&db.pool, &cell(), None, 10).await.unwrap()[0].reason, "bad event");
    }

    /// A lost race, and a batch that fails without events, count against no recipient and move no event to quarantine.
    async fn nothing_is_taken_aside_without_a_culprit(db) {
        create_cells(db).await;
        let never = Cells::<Engine>::deciding(|_, _, _| Err("no state to decide on".into()));
        for _ in 0..5 {
            eventbox::process_batch_with(&db.pool, &cell(), &never, &isolating()).await.unwrap_err();
        }
        emit(db, ["a"]).await;
        let racing = refusing::<Engine>().before_deciding({
            let pool = db.open(1);
            move |_| {
                let pool = pool.clone();
                // Another turn commits before each attempt.
                Box::pin(async move {
                    drop(
                        admin::set_state(&pool, &cell(), admin::standing(&pool, &cell()).await.unwrap().turn, None)
                            .await,
                    );
                })
            }
        });
        for _ in 0..3 {
            let error = eventbox::process_batch_with(&db.pool, &cell(), &racing, &isolating()).await.unwrap_err();
            assert!(error.is_contention(), "{error}");
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (1, 0));
    }

    /// A purge removes the poison event during the search. No event goes to quarantine.
    async fn a_culprit_that_is_gone_is_left_alone(db) {
        create_cells(db).await;
        emit(db, ["bad"]).await;
        let overtaken = refusing::<Engine>().before_deciding({
            let pool = db.open(1);
            move |attempt| {
                let pool = pool.clone();
                Box::pin(async move {
                    if attempt == 2 {
                        admin::purge_all(&pool, &cell()).await.unwrap();
                    }
                })
            }
        });
        for _ in 0..2 {
            eventbox::process_batch_with(&db.pool, &cell(), &overtaken, &isolating()).await.unwrap_err();
        }
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
    }

    /// A paused recipient is not processed. The typed error says so before any user code runs.
    async fn a_paused_recipient_is_not_processed(db) {
        create_cells(db).await;
        emit(db, ["a"]).await;
        assert!(admin::pause(&db.pool, &cell()).await.unwrap());
        let cells = refusing::<Engine>();
        let error = eventbox::process_batch_with(&db.pool, &cell(), &cells, &isolating()).await.unwrap_err();
        assert!(matches!(error, Error::Paused { .. }) && !error.is_transient() && !error.is_contention());
        assert!(error.to_string().contains("cell/1"), "{error}");
        assert_eq!(cells.loads.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert!(admin::resume(&db.pool, &cell()).await.unwrap());
        let turn = eventbox::process_batch_with(&db.pool, &cell(), &cells, &isolating()).await.unwrap();
        assert_eq!(turn.consumed, 1);
    }
}

fn tolerant<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| Ok(Transition::to(population + 1).consuming(events).into()))
}
