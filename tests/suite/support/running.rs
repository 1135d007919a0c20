//! Runtimes with the settings of the tests.

use std::time::Duration;

use eventbox::runtime::{BackoffConfig, LeaseConfig, Runtime, RuntimeConfig};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use super::{TestDb, TestEngine};

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
pub(crate) struct Tally;

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

/// Returns a runtime that holds shards, and works on recipients that no test has.
pub(crate) async fn idle_runtime<B: TestEngine>(db: &TestDb<B>) -> Runtime<B> {
    idle_runtime_with(db, config()).await
}

pub(crate) async fn idle_runtime_with<B: TestEngine>(db: &TestDb<B>, config: RuntimeConfig) -> Runtime<B> {
    Runtime::builder(db.open(4)).reducer("idle", Tally).config(config).start().await.unwrap()
}
