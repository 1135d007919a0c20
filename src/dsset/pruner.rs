//! The background pruner of tombstones.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::set::DEFAULT_TOMBSTONE_DELAY;
use super::tombstone::{Pruned, Span, TombstoneKey, attempt};
use crate::error::Result;
use crate::eventbox::TOMBSTONES;
use crate::service::StopReport;
use crate::store::{Backend, Fault, answered, hold};

/// Shortest time between two passes.
pub const MIN_PRUNE_INTERVAL: Duration = Duration::from_millis(100);

/// Settings of a [`Pruner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunerConfig {
    /// Time for which a name stays remembered after its event was found to be gone.
    pub tombstone_delay: Duration,
    /// Time from the end of a pass to the next, with up to a tenth of jitter; at least [`MIN_PRUNE_INTERVAL`]. A name
    /// lives up to two intervals longer than the delay.
    pub interval: Duration,
    /// Number of tombstones that one transaction reads.
    pub slice: NonZeroU32,
}

impl Default for PrunerConfig {
    /// Returns: a delay of 5 minutes, a pass each minute, 1,000 tombstones per transaction.
    fn default() -> Self {
        PrunerConfig {
            tombstone_delay: DEFAULT_TOMBSTONE_DELAY,
            interval: Duration::from_secs(60),
            slice: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
        }
    }
}

impl PrunerConfig {
    /// Sets the time for which a name stays remembered after its event was found to be gone.
    #[must_use]
    pub fn with_tombstone_delay(self, tombstone_delay: Duration) -> Self {
        PrunerConfig { tombstone_delay, ..self }
    }

    /// Sets the time from the end of a pass to the next.
    #[must_use]
    pub fn with_interval(self, interval: Duration) -> Self {
        PrunerConfig { interval, ..self }
    }

    /// Sets the number of tombstones that one transaction reads.
    #[must_use]
    pub fn with_slice(self, slice: NonZeroU32) -> Self {
        PrunerConfig { slice, ..self }
    }
}

/// Forgets names whose events are gone for longer than the tombstone delay, also those of idle recipients.
///
/// Run it in one or more processes of a database; a `Runtime` runs it by itself. Without it, names
/// are remembered for ever. It reads the tombstones in key order, in transactions of bounded size.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
///
/// use eventbox::{Pruner, PrunerConfig};
///
/// let pruner = Pruner::new(pool, PrunerConfig::default());
/// pruner.start();
/// assert!(pruner.stop(Duration::from_secs(10)).await.complete);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Pruner<B: Backend> {
    pool: Pool<B>,
    config: PrunerConfig,
    stopping: watch::Sender<bool>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl<B: Backend> Pruner<B> {
    /// Makes a pruner, which [`start`](Pruner::start) starts.
    #[must_use]
    pub fn new(pool: Pool<B>, config: PrunerConfig) -> Self {
        Pruner { pool, config, stopping: watch::Sender::new(false), running: Mutex::default() }
    }

    /// Starts the pruner in the background and returns at once. Does nothing when it was started or stopped before.
    ///
    /// Call it in a tokio runtime. Dropping the pruner stops it, without waiting.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() && !*self.stopping.borrow() {
            *running = Some(tokio::spawn(run(self.pool.clone(), self.config, self.stopping.subscribe())));
        }
    }

    /// Stops the pruner after the transaction in flight; the report is not complete when that took longer than `limit`.
    ///
    /// # Cancel safety
    ///
    /// Safe: the pruner stops nevertheless.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.stopping.send_replace(true);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        match running {
            Some(running) => StopReport::in_time(tokio::time::timeout(limit, running).await.is_ok()),
            None => StopReport::COMPLETE,
        }
    }

    /// Makes one pass over all tombstones at once, also while the pruner runs in the background.
    ///
    /// # Errors
    ///
    /// Contention, transient and database errors. The transactions before the error stay committed.
    ///
    /// # Cancel safety
    ///
    /// Safe: the transactions so far stay committed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
    /// # let options = eventbox::sqlite_options(":memory:");
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::{Event, Pruner, PrunerConfig, Recipient};
    ///
    /// let airport = Recipient::new("airport", "JFK")?;
    /// eventbox::emit(&pool, &airport, Event::new("departed").named("UA/1545")).await?;
    /// let pruned = Pruner::new(pool, PrunerConfig::default()).run_once().await?;
    /// assert_eq!((pruned.walked, pruned.stamped, pruned.deleted), (1, 0, 0));
    /// # Ok(()) }
    /// ```
    pub async fn run_once(&self) -> Result<Pruned> {
        pass(&self.pool, &self.config, &watch::Sender::new(false).subscribe()).await
    }
}

async fn run<B: Backend>(pool: Pool<B>, config: PrunerConfig, mut stopping: watch::Receiver<bool>) {
    loop {
        match pass(&pool, &config, &stopping).await {
            Ok(Pruned { walked, stamped, revived, deleted, .. }) => {
                tracing::debug!(walked, stamped, revived, deleted, "tombstones were pruned");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "tombstones were not pruned: trying again at the next pass");
            }
        }
        let pause = pause(config.interval, fastrand::f64());
        // An error says that the pruner was dropped.
        if tokio::time::timeout(pause, stopping.wait_for(|stopping| *stopping)).await.is_ok() {
            return;
        }
    }
}

/// Returns the time until the next pass. A random number from 0 to 1 makes it longer by up to a tenth, so that processes
/// that started together do not make their passes together.
fn pause(interval: Duration, random: f64) -> Duration {
    let interval = interval.max(MIN_PRUNE_INTERVAL);
    interval + interval.mul_f64(random / 10.0)
}

async fn pass<B: Backend>(pool: &Pool<B>, config: &PrunerConfig, stopping: &watch::Receiver<bool>) -> Result<Pruned> {
    let mut total = Pruned::default();
    let shards = answered(pool, async { B::list_tombstone_shards(&mut *hold(pool).await?).await });
    let shards = shards.await.map_err(|fault: Fault| fault.during("find the tombstones to prune"))?;
    for shard in shards.into_iter().filter_map(|shard| u8::try_from(shard).ok()) {
        let during = |fault: Fault| fault.during(attempt(shard));
        let last = answered(pool, async { B::last_tombstone(&mut *hold(pool).await?, shard.into()).await });
        let Some((recipient, name)) = last.await.map_err(during)? else { continue };
        // The pass ends at the key that was last when it began, so that growing keys cannot keep it in this shard.
        let until = TombstoneKey { recipient, name };
        let mut after = None;
        loop {
            if *stopping.borrow() || stopping.has_changed().is_err() {
                return Ok(total);
            }
            let span = Span {
                shard,
                after: after.as_ref(),
                until: &until,
                limit: config.slice.get(),
                delay: config.tombstone_delay,
            };
            total.absorb(span.prune_on(pool).await.map_err(during)?);
            after = total.next.take();
            if after.is_none() {
                break;
            }
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
    metrics::gauge!(TOMBSTONES).set(total.walked.saturating_sub(total.deleted) as f64);
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_longer_by_up_to_a_tenth() {
        let minute = Duration::from_secs(60);
        assert_eq!([0.0, 0.5, 1.0].map(|random| pause(minute, random)), [60, 63, 66].map(Duration::from_secs));
        assert_eq!(pause(Duration::ZERO, 0.0), MIN_PRUNE_INTERVAL);
    }
}
