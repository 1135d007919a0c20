//! `forget`, which removes the turn and the state of an idle recipient.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::admin::{self, Forgotten};
use eventbox::{Event, Mutation, Transition, TurnOptions, limits::MAX_TURN_AGE, process_batch, process_batch_with};

use super::races::{op, turn_first};
use super::{MANY, cell, emit, turn};
use crate::support::{CellEngine, Cells, TestDb, TestEngine, create_cells, drain, on_every_engine, with_database};

/// Makes the last write older by an hour.
async fn let_an_hour_pass<B: TestEngine>(db: &TestDb<B>) {
    db.run("UPDATE eventbox_state SET updated_at_us = updated_at_us - 3600000001").await;
}

async fn forget<B: TestEngine>(db: &TestDb<B>) -> Forgotten {
    admin::forget(&db.pool, &cell()).await.unwrap()
}

/// A processor that takes a turn with any events, also with none.
fn counting<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| Ok(Mutation::from(Transition::to(population + 1).consuming(events))))
}

on_every_engine! {
    /// A recipient can be forgotten an hour after its last write, without events and while not paused.
    async fn a_recipient_is_forgotten_an_hour_after_its_last_write(db) {
        assert_eq!(forget(db).await, Forgotten::NothingKept);
        emit(db, &["a"]).await;
        assert_eq!(forget(db).await, Forgotten::HasEvents);
        drain(&db.pool, &cell()).await;
        assert_eq!((forget(db).await, turn(db).await), (Forgotten::TooRecent, 1));
        let_an_hour_pass(db).await;
        eventbox::emit(&db.pool, &cell(), Event::new("late")).await.unwrap();
        assert_eq!(forget(db).await, Forgotten::HasEvents);
        drain(&db.pool, &cell()).await;
        let_an_hour_pass(db).await;
        admin::pause(&db.pool, &cell()).await.unwrap();
        let_an_hour_pass(db).await;
        assert_eq!((forget(db).await, turn(db).await), (Forgotten::Paused, 3));
        admin::resume(&db.pool, &cell()).await.unwrap();
        assert_eq!(forget(db).await, Forgotten::TooRecent, "resuming is a write");
        let_an_hour_pass(db).await;
        assert_eq!((forget(db).await, turn(db).await), (Forgotten::Done, 0));
        assert_eq!((db.count("eventbox_state").await, db.count("eventbox_failure").await), (0, 0));
        assert_eq!(forget(db).await, Forgotten::NothingKept);
    }

    /// A recipient is forgotten while its turn decides. The turn does not match any more and starts again, as turn 1.
    async fn a_turn_in_flight_does_not_outlive_its_recipient(db) {
        create_cells(db).await;
        let _ = process_batch(&db.pool, &cell(), &counting::<Engine>(), MANY).await.unwrap();
        let _ = process_batch(&db.pool, &cell(), &counting::<Engine>(), MANY).await.unwrap();
        let_an_hour_pass(db).await;
        let other = db.open(1);
        let cells = counting::<Engine>().before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    assert_eq!(admin::forget(&other, &cell()).await.unwrap(), Forgotten::Done);
                }
            }
        });
        let done = process_batch(&db.pool, &cell(), &cells, MANY).await.unwrap();
        assert_eq!((done.number, done.contention), (Some(1), 1));
    }

    /// A turn commits while `forget` waits for it, so the last write is too recent.
    async fn a_recipient_is_not_forgotten_under_a_turn(db) {
        create_cells(db).await;
        let _ = process_batch(&db.pool, &cell(), &counting::<Engine>(), MANY).await.unwrap();
        let_an_hour_pass(db).await;
        let forgetting = op::<Engine, _, _, _>(|pool| async move { admin::forget(&pool, &cell()).await.unwrap() });
        let (done, forgotten) = turn_first(db, forgetting).await;
        assert_eq!(done.unwrap().number, Some(2));
        assert_eq!((forgotten, turn(db).await), (Forgotten::TooRecent, 2));
    }
}

/// A turn that decides for longer than [`MAX_TURN_AGE`] is refused before its transaction, and starts again.
/// Otherwise it could commit turn 1 of a recipient that had turns and was forgotten meanwhile.
async fn a_turn_that_is_too_old_starts_again<B: CellEngine>() {
    with_database("a_turn_that_is_too_old", async |db: &TestDb<B>| {
        create_cells(db).await;
        let fetched = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&fetched);
        let cells = counting::<B>().before_deciding(move |attempt| {
            let seen = Arc::clone(&seen);
            async move {
                if attempt == 1 {
                    tokio::time::pause();
                    tokio::time::advance(MAX_TURN_AGE).await;
                    tokio::time::resume();
                } else {
                    seen.store(true, Ordering::SeqCst);
                }
            }
        });
        let options = TurnOptions::new(MANY).deadline(Duration::from_secs(24 * 60 * 60));
        let done = process_batch_with(&db.pool, &cell(), &cells, &options).await.unwrap();
        assert_eq!((done.number, done.contention), (Some(1), 1));
        assert_eq!(
            (cells.fetches.load(Ordering::SeqCst), fetched.load(Ordering::SeqCst)),
            (1, true),
            "one transaction"
        );
    })
    .await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_turn_that_is_too_old_starts_again_on_postgres() {
    a_turn_that_is_too_old_starts_again::<sqlx::Postgres>().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_turn_that_is_too_old_starts_again_on_sqlite() {
    a_turn_that_is_too_old_starts_again::<sqlx::Sqlite>().await;
}
