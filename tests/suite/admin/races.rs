//! Every administrative write against a turn in flight, in both orders.
//! Either the write commits while the turn decides, or the write begins while the turn commits.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use eventbox::{Error, Event, Mutation, Result, SideEffect, Transition, Turn, admin, process_batch};
use sqlx::Pool;
use tokio::sync::oneshot;

use super::{MANY, cell, emit, turn, values};
use crate::support::{
    CellEngine, Cells, LOCK_WAITS, SOON, TestDb, create_cells, drain, eventually, noting, on_every_engine,
};

/// An administrative call, on a pool of its own.
pub(super) type Op<B, T> = Arc<dyn Fn(Pool<B>) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;

pub(super) fn op<B, T, F, Fut>(does: F) -> Op<B, T>
where
    B: CellEngine,
    F: Fn(Pool<B>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    Arc::new(move |pool| Box::pin(does(pool)))
}

macro_rules! op {
    (|$pool:ident| $body:expr) => {
        op::<Engine, _, _, _>(move |$pool| async move { $body })
    };
}

/// Returns a processor that consumes everything, also nothing, with a note for each event and one more side effect.
fn consuming<B: CellEngine>(also: impl Fn() -> Option<SideEffect<B>> + Send + Sync + 'static) -> Cells<B> {
    Cells::deciding(move |_, events, population| {
        let notes = events.iter().map(|event: &Event| Some(noting(String::from_utf8_lossy(event.value()))));
        let effect = SideEffect::chain(notes.chain([also()]));
        Ok(Mutation::from(Transition::to(population + 1).consuming(events).side_effect(effect)))
    })
}

/// Runs the call while the first attempt of the turn decides.
async fn op_first<B: CellEngine, T: Send + 'static>(db: &TestDb<B>, op: Op<B, T>) -> (Result<Turn>, T) {
    let answer = Arc::new(Mutex::new(None));
    let (pool, kept) = (db.open(1), Arc::clone(&answer));
    let cells = consuming(|| None).before_deciding(move |attempt| {
        let (op, pool, kept) = (Arc::clone(&op), pool.clone(), Arc::clone(&kept));
        async move {
            if attempt == 1 {
                let done = op(pool).await;
                *kept.lock().unwrap() = Some(done);
            }
        }
    });
    let turn = process_batch(&db.pool, &cell(), &cells, MANY).await;
    let answer = answer.lock().unwrap().take().unwrap();
    (turn, answer)
}

/// Runs the call while the transaction of the turn is open. On Postgres it checks that the call waits for the turn.
pub(super) async fn turn_first<B: CellEngine, T: Send + 'static>(db: &TestDb<B>, op: Op<B, T>) -> (Result<Turn>, T) {
    let (open, is_open) = oneshot::channel::<()>();
    let (commit, may_commit) = oneshot::channel::<()>();
    let steps = Mutex::new(Some((open, may_commit)));
    let cells = consuming(move || {
        let (open, may_commit) = steps.lock().unwrap().take()?;
        Some(SideEffect::new(move |_tx| {
            Box::pin(async move {
                open.send(()).unwrap();
                Ok(may_commit.await?)
            })
        }))
    });
    let pool = db.open(1);
    let admin = async {
        is_open.await.unwrap();
        let (answer, ()) = tokio::join!(op(pool), async {
            if B::FOLDER == "postgres" {
                eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
            }
            commit.send(()).unwrap();
        });
        answer
    };
    let cell = cell();
    tokio::join!(process_batch(&db.pool, &cell, &cells, MANY), admin)
}

fn contended(turn: &Result<Turn>) -> (Option<i64>, usize, usize) {
    let turn = turn.as_ref().unwrap();
    (turn.number, turn.consumed, turn.contention)
}

async fn notes<B: CellEngine>(db: &TestDb<B>) -> Vec<String> {
    db.texts("SELECT text FROM effect ORDER BY text").await
}

on_every_engine! {
    async fn a_purge_comes_first(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        let (turn, purged) = op_first(db, op!(|pool| admin::purge(&pool, &cell(), &[a]).await.unwrap())).await;
        assert_eq!((contended(&turn), purged), ((Some(2), 1, 1), 1));
        assert_eq!(notes(db).await, ["b"], "the purged event is not applied");
    }

    async fn a_purge_comes_after_a_turn(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        let (done, purged) = turn_first(db, op!(|pool| admin::purge(&pool, &cell(), &[a]).await.unwrap())).await;
        assert_eq!((contended(&done), purged), ((Some(1), 2, 0), 0));
        assert_eq!((notes(db).await, turn(db).await), (vec!["a".to_owned(), "b".to_owned()], 1));
    }

    async fn a_purge_of_all_comes_first(db) {
        create_cells(db).await;
        emit(db, &["a", "b"]).await;
        let (turn, purged) = op_first(db, op!(|pool| admin::purge_all(&pool, &cell()).await.unwrap())).await;
        assert_eq!((contended(&turn), purged), ((Some(2), 0, 1), 2));
        assert!(notes(db).await.is_empty());
    }

    async fn a_purge_of_all_comes_after_a_turn(db) {
        create_cells(db).await;
        emit(db, &["a", "b"]).await;
        let (done, purged) = turn_first(db, op!(|pool| admin::purge_all(&pool, &cell()).await.unwrap())).await;
        assert_eq!((contended(&done), purged, turn(db).await), ((Some(1), 2, 0), 0, 1));
    }

    async fn a_quarantine_comes_first(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        let (done, moved) =
            op_first(db, op!(|pool| admin::quarantine(&pool, &cell(), &[a], "bad").await.unwrap())).await;
        assert_eq!((contended(&done), moved), ((Some(2), 1, 1), 1));
        assert_eq!((notes(db).await, db.count("eventbox_dead_letter").await), (vec!["b".to_owned()], 1));
    }

    async fn a_quarantine_comes_after_a_turn(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        let (done, moved) =
            turn_first(db, op!(|pool| admin::quarantine(&pool, &cell(), &[a], "bad").await.unwrap())).await;
        assert_eq!((contended(&done), moved), ((Some(1), 2, 0), 0));
        assert_eq!(
            (db.count("eventbox_dead_letter").await, turn(db).await),
            (0, 1),
            "an event is consumed or in quarantine, never both"
        );
    }

    async fn a_replay_comes_first(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        admin::quarantine(&db.pool, &cell(), &[a], "bad").await.unwrap();
        let (done, moved) = op_first(db, op!(|pool| admin::replay(&pool, &cell(), &[a]).await.unwrap())).await;
        assert_eq!(
            (contended(&done), moved),
            ((Some(3), 2, 1), 1),
            "the next attempt sees the event, in its old place"
        );
        assert_eq!(notes(db).await, ["a", "b"]);
    }

    async fn a_replay_comes_after_a_turn(db) {
        create_cells(db).await;
        let a = emit(db, &["a", "b"]).await[0];
        admin::quarantine(&db.pool, &cell(), &[a], "bad").await.unwrap();
        let (done, moved) = turn_first(db, op!(|pool| admin::replay(&pool, &cell(), &[a]).await.unwrap())).await;
        assert_eq!((contended(&done), moved, turn(db).await), ((Some(2), 1, 0), 1, 3));
        assert_eq!(values(db).await, ["a"]);
    }

    async fn a_discard_comes_first_or_after_a_turn(db) {
        create_cells(db).await;
        for (value, first) in [("a", true), ("b", false)] {
            let id = emit(db, &[value]).await[0];
            admin::quarantine(&db.pool, &cell(), &[id], "bad").await.unwrap();
            let op = op!(|pool| admin::discard(&pool, &cell(), &[id]).await.unwrap());
            let (done, gone) = if first { op_first(db, op).await } else { turn_first(db, op).await };
            assert_eq!((contended(&done).2, gone), (usize::from(first), 1));
        }
        assert_eq!((db.count("eventbox_dead_letter").await, turn(db).await), (0, 6));
    }

    /// After `pause` has returned, no turn that began before it commits.
    async fn a_pause_comes_first(db) {
        create_cells(db).await;
        emit(db, &["a"]).await;
        let (done, paused) = op_first(db, op!(|pool| {
            let paused = admin::pause(&pool, &cell()).await.unwrap();
            // Only an attempt that began after the pause can consume this event.
            eventbox::emit(&pool, &cell(), Event::new("later")).await.unwrap();
            paused
        })).await;
        assert!(paused && admin::standing(&db.pool, &cell()).await.unwrap().paused);
        assert!(matches!(done, Err(Error::Paused { .. })), "{done:?}");
        assert!(notes(db).await.is_empty());
    }

    async fn a_pause_comes_after_a_turn(db) {
        create_cells(db).await;
        emit(db, &["a"]).await;
        let (done, paused) = turn_first(db, op!(|pool| admin::pause(&pool, &cell()).await.unwrap())).await;
        assert_eq!((contended(&done), paused, turn(db).await), ((Some(1), 1, 0), true, 2));
    }

    async fn a_resume_comes_first_or_after_a_turn(db) {
        create_cells(db).await;
        for first in [true, false] {
            emit(db, &[if first { "a" } else { "b" }]).await;
            let shard = cell().shard();
            db.run(format_args!(
                "INSERT INTO eventbox_failure (shard, recipient, attempts, error) VALUES ({shard}, 'cell/1', 3, 'why')"
            ))
            .await;
            let op = op!(|pool| admin::resume(&pool, &cell()).await.unwrap());
            let (done, resumed) = if first { op_first(db, op).await } else { turn_first(db, op).await };
            // A turn resets the failures itself, so after a turn there is nothing to resume.
            assert_eq!((contended(&done).1, contended(&done).2, resumed), (1, usize::from(first), first));
            assert_eq!(db.count("eventbox_failure").await, 0);
        }
    }

    async fn an_edited_state_comes_first(db) {
        create_cells(db).await;
        emit(db, &["a"]).await;
        drain(&db.pool, &cell()).await;
        let (done, at) =
            op_first(db, op!(|pool| admin::set_state(&pool, &cell(), 1, Some(b"edited")).await.unwrap())).await;
        assert_eq!((contended(&done), at), ((Some(3), 0, 1), 2), "the turn was decided again, on the edited state");
        let stored = admin::stored_state(&db.pool, &cell()).await.unwrap();
        assert_eq!((stored.turn, stored.state.as_deref()), (3, Some(b"edited".as_slice())));
    }

    async fn an_edited_state_comes_after_a_turn(db) {
        create_cells(db).await;
        emit(db, &["a"]).await;
        drain(&db.pool, &cell()).await;
        let (done, error) =
            turn_first(db, op!(|pool| admin::set_state(&pool, &cell(), 1, Some(b"edited")).await.unwrap_err())).await;
        assert_eq!(contended(&done), (Some(2), 0, 0));
        assert!(error.is_contention(), "the edit expected an older state: {error:?}");
        assert_eq!(admin::stored_state(&db.pool, &cell()).await.unwrap().state, None);
    }

    async fn a_cleared_state_comes_first(db) {
        create_cells(db).await;
        assert_eq!(admin::set_state(&db.pool, &cell(), 0, Some(b"there")).await.unwrap(), 1);
        let (done, at) = op_first(db, op!(|pool| admin::set_state(&pool, &cell(), 1, None).await.unwrap())).await;
        assert_eq!((contended(&done), at), ((Some(3), 0, 1), 2));
        assert_eq!(admin::stored_state(&db.pool, &cell()).await.unwrap().state, None);
    }
}
