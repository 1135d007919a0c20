//! The runtime: every box is processed, by any process that is alive.

mod batches;
mod blame;
mod bounds;
mod bytes;
mod config;
mod failing;
mod finding;
mod gaps;
mod gauges;
mod handing;
mod holding;
mod hooks;
#[cfg(feature = "postgres")]
mod jumps;
mod kept_states;
mod late;
mod leases;
mod memory;
mod observing;
mod overtaken;
mod processor_rounds;
mod publishing;
mod rates;
mod read_only;
mod resolving;
mod rounds;
mod shards;
mod sharing;
#[cfg(feature = "postgres")]
mod slow_scans;
mod stopping;
mod waiting;
mod wake_ups;

use eventbox::runtime::{Runtime, RuntimeBuilder, RuntimeConfig};
use eventbox::{Event, PoisonPolicy, Recipient};
use sqlx::Pool;

use crate::support::running::{STOP, Tally, backoff, config, leases};
use crate::support::{CellEngine, TestDb, TestEngine, eventually};

/// Returns a runtime with the reducer `tally` for recipients `tally/…`.
fn tallying<B: TestEngine>(pool: Pool<B>) -> RuntimeBuilder<B> {
    Runtime::builder(pool).reducer("tally", Tally).config(config())
}

fn tally(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("tally", key.to_string()).unwrap()
}

/// Emits events with these values to one recipient, in one transaction.
async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, values: impl IntoIterator<Item = impl std::fmt::Display>) {
    let events: Vec<_> = values.into_iter().map(|value| (to.clone(), Event::new(value.to_string()))).collect();
    emit_all(db, &events).await;
}

async fn emit_all<B: CellEngine>(db: &TestDb<B>, events: &[(Recipient, Event)]) {
    let mut conn = db.pool.acquire().await.unwrap();
    for events in events.chunks(eventbox::limits::MAX_EMIT_EVENTS) {
        B::emit_all(&mut conn, events).await.unwrap();
    }
}

/// Waits until no event is left.
async fn idle<B: TestEngine>(db: &TestDb<B>) {
    eventually(crate::support::SOON, async || db.count("eventbox_event").await == 0).await;
}

/// Returns the events that a tally has seen.
async fn seen<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<String> {
    eventbox::state::<Vec<String>>(&db.pool, of).await.unwrap().and_then(|at| at.state).unwrap_or_default()
}

/// Returns settings that isolate after this number of failures.
fn isolating(after: u32) -> RuntimeConfig {
    let mut config = config();
    config.poison = PoisonPolicy::Isolate { after: after.try_into().unwrap() };
    config
}

/// Returns the turn of a tally; 0 when it never had one.
async fn turn_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> i64 {
    eventbox::state::<Vec<String>>(&db.pool, of).await.unwrap().map_or(0, |at| at.turn)
}

/// Returns settings with one round at a time, which has all recipients that wait at the start.
fn one_round() -> RuntimeConfig {
    let mut config = config();
    config.rounds = 1.try_into().unwrap();
    config
}
