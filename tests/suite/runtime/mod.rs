//! The runtime: every box is processed, by any process that is alive.

mod blame;
mod bounds;
mod bytes;
mod config;
mod failing;
mod finding;
mod gauges;
mod handing;
mod holding;
#[cfg(feature = "postgres")]
mod jumps;
mod kept_states;
mod late;
mod leases;
mod memory;
mod observing;
mod overtaken;
mod publishing;
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

use std::time::Duration;

use eventbox::runtime::{BackoffConfig, LeaseConfig, Runtime, RuntimeBuilder, RuntimeConfig};
use eventbox::{BoxError, Event, Outcome, PoisonPolicy, Recipient, Reducer};
use sqlx::Pool;

use crate::support::{CellEngine, TestDb, TestEngine, eventually};

/// Longest time that the runtime of a test may take to stop.
pub(crate) const STOP: Duration = Duration::from_secs(20);

/// Short terms, so that a test of them does not take long.
const TERMS: (Duration, Duration, Duration) =
    (Duration::from_millis(900), Duration::from_millis(200), Duration::from_millis(50));

/// Name of the variable that switches off leases and wake-ups in the tests. Then only the poll finds events, and the
/// tests must still pass.
const BARE: &str = "EVENTBOX_TEST_BARE_RUNTIME";

/// Returns the settings of a test: frequent polls, short leases, and short pauses of failing recipients.
pub(crate) fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.poll_interval = Duration::from_millis(100);
    config.min_poll_interval = Duration::from_millis(5);
    config.leases = Some(leases());
    config.backoff = backoff(Duration::from_millis(1), Duration::from_millis(20));
    if std::env::var_os(BARE).is_some() {
        (config.leases, config.local_wake_ups, config.remote_wake_ups) = (None, false, false);
    }
    config
}

pub(crate) fn leases() -> LeaseConfig {
    let mut leases = LeaseConfig::default();
    (leases.lease_ttl, leases.renew_interval, leases.check_interval) = TERMS;
    leases
}

pub(crate) fn backoff(base: Duration, cap: Duration) -> BackoffConfig {
    let mut backoff = BackoffConfig::default();
    (backoff.base, backoff.cap) = (base, cap);
    backoff
}

/// Counts events, and remembers them in order.
struct Tally;

impl Reducer for Tally {
    type State = Vec<String>;

    fn reduce(
        &self,
        _to: &Recipient,
        events: &[Event],
        mut seen: Vec<String>,
    ) -> Result<Outcome<Vec<String>>, BoxError> {
        seen.extend(events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()));
        Ok(Outcome::to(seen).consuming(events))
    }
}

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
