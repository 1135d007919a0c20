//! Settings, metrics and permits that all parts of an emitter share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::emitter::config::Config;
use crate::emitter::metrics::EmitterMetrics;
use crate::emitter::metrics::stats::Counters;
use crate::store::Fault;

/// Settings, metrics, counters and write permits of one emitter.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) metrics: EmitterMetrics,
    pub(crate) counters: Counters,
    /// Permits for writes, as many as the engine can use. Further writes wait here in order; in the database they would
    /// sleep and retry.
    pub(crate) write_permits: Semaphore,
}

impl Context {
    /// Shares a configuration on an engine that can use `writers` writes at once.
    pub(crate) fn new(config: Config, writers: usize) -> Self {
        Context {
            metrics: EmitterMetrics::new(config.batch.client_name.as_deref()),
            counters: Counters::default(),
            write_permits: Semaphore::new(writers.min(Semaphore::MAX_PERMITS)),
            config,
        }
    }

    /// Runs a statement within `database_timeout`, counts it and measures its time. Logs a failure and returns `None`:
    /// the rows stay, and a later statement covers them.
    pub(crate) async fn statement<T>(
        &self,
        operation: &'static str,
        statement: impl Future<Output = Result<T, Fault>>,
    ) -> Option<T> {
        let started = Instant::now();
        let permitted = async {
            let _permit = self.write_permits.acquire().await;
            statement.await
        };
        let done = within(self.config.database_timeout, permitted).await;
        self.metrics.store_operation(operation, done.is_err(), started.elapsed());
        done.inspect_err(
            |fault| tracing::warn!(operation, error = %fault.0, "a statement on the outbox failed; its rows stay"),
        )
        .ok()
    }
}

/// Runs a statement, and returns an error when it takes longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, statement: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(limit, statement).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the statement took longer than database_timeout");
        Err(Fault(sqlx::Error::Io(late)))
    })
}

/// Runs a hook of the user. A panic is logged and goes no further.
pub(crate) fn guarded<T>(name: &'static str, hook: impl FnOnce() -> T) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        tracing::error!(hook = name, "a hook panicked");
    }
}
