//! An event that commits long after its emit keeps its place, before the events that its sender emitted after this
//! commit.
//!
//! Only Postgres: on SQLite one transaction at a time emits, so no other event can come between.

use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeBuilder, RuntimeConfig};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, SideEffect, Transition};
use sqlx::Postgres;

use super::{STOP, config, emit, idle, seen, tally};
use crate::support::{Cells, SOON, TestDb, create_cells, effects, noting, with_database};

/// Stops the first task that comes to it until it is opened.
struct Gate {
    arrived: SyncSender<()>,
    open: Mutex<Option<Receiver<()>>>,
}

impl Gate {
    /// Returns the gate, the signal that a task stands before it, and the handle that opens it.
    fn new() -> (Arc<Self>, Receiver<()>, SyncSender<()>) {
        let ((arrived, tell), (opener, open)) = (sync_channel(1), sync_channel(1));
        (Arc::new(Gate { arrived, open: Mutex::new(Some(open)) }), tell, opener)
    }

    fn pass(&self) {
        let first = self.open.lock().unwrap().take();
        if let Some(open) = first {
            self.arrived.send(()).unwrap();
            tokio::task::block_in_place(|| open.recv_timeout(SOON)).unwrap();
        }
    }
}

/// Remembers its events in order, behind a gate.
struct GatedTally(Arc<Gate>);

impl Reducer for GatedTally {
    type State = Vec<String>;

    fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Vec<String>) -> Result<Outcome<Vec<String>>, BoxError> {
        self.0.pass();
        seen.extend(events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()));
        Ok(Outcome::to(seen).consuming(events))
    }
}

/// Settings with no scan at the critical point of a test, and with turns of two events.
fn quiet() -> RuntimeConfig {
    let mut config = config();
    (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(2), Duration::from_secs(2));
    (config.max_events, config.local_wake_ups, config.remote_wake_ups) = (NonZeroU32::new(2).unwrap(), false, false);
    config
}

/// A sender emits "297" in a transaction, which commits after later events of other senders were listed.
/// Then the sender emits "298" and "299".
async fn late_keeps_its_place(
    db: &TestDb<Postgres>,
    to: &Recipient,
    others: usize,
    (builder, arrived, open): (RuntimeBuilder<Postgres>, Receiver<()>, SyncSender<()>),
) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    eventbox::emit(&mut *tx, to, Event::new("297")).await.unwrap();
    emit(db, to, (0..others).map(|n| format!("other {n}"))).await;
    let runtime = builder.config(quiet()).start().await.unwrap();
    tokio::task::spawn_blocking(move || arrived.recv_timeout(SOON)).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    for value in ["298", "299"] {
        eventbox::emit(&db.pool, to, Event::new(value)).await.unwrap();
    }
    open.send(()).unwrap();
    idle(db).await;
    assert!(runtime.stop(STOP).await.complete);
}

fn own(seen: &[String]) -> Vec<&str> {
    seen.iter().map(String::as_str).filter(|value| !value.starts_with("other")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_commit_keeps_its_senders_order_in_rounds() {
    with_database("a_late_commit_in_rounds", async |db: &TestDb<Postgres>| {
        for others in [1, 3, 4, 9] {
            let (gate, arrived, open) = Gate::new();
            let builder = Runtime::builder(db.open(4)).reducer("tally", GatedTally(gate));
            late_keeps_its_place(db, &tally(others), others, (builder, arrived, open)).await;
            let seen = seen(db, &tally(others)).await;
            assert_eq!(own(&seen), ["297", "298", "299"], "{others} others: {seen:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_late_commit_keeps_its_senders_order_in_turns() {
    with_database("a_late_commit_in_turns", async |db: &TestDb<Postgres>| {
        create_cells(db).await;
        for others in [1, 3, 4, 9] {
            let (gate, arrived, open) = Gate::new();
            let cells = Cells::<Postgres>::deciding(move |_, events, population| {
                gate.pass();
                let notes = events.iter().map(|event| Some(noting(String::from_utf8_lossy(event.value()))));
                Ok(Transition::to(population + 1).consuming(events).side_effect(SideEffect::chain(notes)).into())
            });
            let builder = Runtime::builder(db.open(4)).processor("cell", cells);
            let to = Recipient::new("cell", others.to_string()).unwrap();
            late_keeps_its_place(db, &to, others, (builder, arrived, open)).await;
            let seen = effects(db).await;
            assert_eq!(own(&seen), ["297", "298", "299"], "{others} others: {seen:?}");
            db.run("DELETE FROM effect").await;
        }
    })
    .await;
}
