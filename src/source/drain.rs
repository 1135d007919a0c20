//! Reads a source to its present end.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use sqlx::Pool;
use tokio_util::sync::CancellationToken;

use super::config::SourceConfig;
use super::contract::EventSource;
use super::error::SourceError;
use super::metrics::SourceMetrics;
use super::partition::{Ended, Partition};
use super::status::Progress;
use super::supervise::partitions_of;
use crate::store::Backend;

/// What a [`drain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Events that were emitted, with those that were there already.
    pub events: u64,
    /// Events that were there already, by their names.
    pub duplicates: u64,
    /// Rounds that were committed.
    pub rounds: u64,
}

/// Reads all partitions of a source, one after the other, up to what is there now.
///
/// Use it in jobs and in tests; [`Sources`](crate::source::Sources) reads as long as a service runs. Both keep the
/// checkpoints by the name of the source, and may run at the same time: each event is emitted once.
///
/// # What comes back
///
/// The counts of this call.
///
/// # Errors
///
/// [`SourceError`]: the partition cannot be read, or the database did not commit. Rounds before the error are
/// committed, and a later call goes on behind them.
///
/// # Cancel safety
///
/// Safe: a round is committed whole or not at all, and a later call goes on behind the last one.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// # let files = tempfile::tempdir()?;
/// # let directory = files.path();
/// use eventbox::source::{Directory, SourceConfig, drain};
/// use eventbox::{Event, Recipient};
///
/// std::fs::write(directory.join("1.jsonl"), "{\"order\":7}\n{\"order\":8}\n")?;
/// let orders = Directory::new(directory, |line| {
///     let order: serde_json::Value = line.json()?;
///     Ok(vec![(Recipient::new("order", order["order"].to_string())?, Event::new(line.bytes.to_vec()))])
/// });
/// let config = SourceConfig::default();
/// assert_eq!(drain(&pool, "orders", &orders, &config).await?.events, 2);
/// assert_eq!(drain(&pool, "orders", &orders, &config).await?.events, 0, "each line once");
/// # Ok(()) }
/// ```
pub async fn drain<B: Backend>(
    pool: &Pool<B>,
    name: &str,
    source: &dyn EventSource,
    config: &SourceConfig,
) -> Result<Drained, SourceError> {
    config.check(name)?;
    let (mut drained, never) = (Drained::default(), CancellationToken::new());
    let metrics = SourceMetrics::new(name);
    for key in partitions_of(name, source, config).await? {
        let progress = Arc::new(Progress::new(&key, metrics.clone()));
        let partition = Partition {
            pool,
            source,
            config,
            key: &key,
            progress: Arc::clone(&progress),
            to_end: true,
            most: AtomicUsize::new(config.max_events.get()),
        };
        loop {
            let before = progress.rounds();
            match partition.live(&never).await? {
                Ended::Overtaken => {}
                Ended::Boundary if progress.rounds() > before => {}
                Ended::Boundary | Ended::AtEnd | Ended::Stopped => break,
            }
        }
        let status = progress.status();
        drained.events += status.events;
        drained.duplicates += status.duplicates;
        drained.rounds += status.rounds;
    }
    Ok(drained)
}
