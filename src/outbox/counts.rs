//! Counts what lies in the outbox.

use std::time::Duration;

use sqlx::Pool;

use crate::error::Result;
use crate::outbox::row::micros;
use crate::store::{Backend, Fault, MAX_COUNTED_ROWS, OutboxSample, answered, hold};

/// How many rows of the outbox are counted; beyond, the numbers say `at least`.
pub const MAX_COUNTED: i64 = MAX_COUNTED_ROWS;

/// What lies in the outbox: exact up to [`MAX_COUNTED`] rows, and beyond that at least so much, which two fields tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Rows that are not delivered.
    pub depth: i64,
    /// Whether there are more of them than were counted: then the depth, its bytes, what expires soon and the age are lower bounds.
    pub depth_is_at_least: bool,
    /// All rows, those that are kept after their delivery included.
    pub total_rows: i64,
    /// Whether there are more than were counted: then `total_rows` is a lower bound.
    pub total_is_at_least: bool,
    /// Bytes of the payloads of what is not delivered.
    pub payload_bytes: i64,
    /// Rows that will expire soon.
    pub near_ttl: i64,
    /// The age of the oldest row that is not delivered; zero when there is none.
    pub oldest_pending_age: Duration,
}

impl QueueStats {
    fn of(sample: OutboxSample) -> Self {
        QueueStats {
            depth: sample.undelivered.min(MAX_COUNTED),
            depth_is_at_least: sample.undelivered > MAX_COUNTED,
            total_rows: sample.total_rows.min(MAX_COUNTED),
            total_is_at_least: sample.total_rows > MAX_COUNTED,
            payload_bytes: sample.payload_bytes,
            near_ttl: sample.near_ttl,
            oldest_pending_age: Duration::from_micros(u64::try_from(sample.oldest_age_us).unwrap_or(0)),
        }
    }
}

/// Counts the rows of the outbox, up to [`MAX_COUNTED`]. No row counts as about to expire: only a `DurableEmitter` knows the term.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{CloudEvent, outbox};
///
/// let event = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?;
/// let stored = outbox::publish_in(&pool, event).await?;
/// assert_eq!(outbox::queue_stats(&pool).await?.depth, 1);
/// # drop(stored);
/// # Ok(()) }
/// ```
pub async fn queue_stats<B: Backend>(pool: &Pool<B>) -> Result<QueueStats> {
    observe(pool, Duration::MAX, Duration::ZERO).await.map_err(|fault| fault.during("count the rows of the outbox"))
}

/// Counts the rows of the outbox; those that reach the age `ttl` within `lead` count as about to expire.
pub(crate) async fn observe<B: Backend>(pool: &Pool<B>, ttl: Duration, lead: Duration) -> Result<QueueStats, Fault> {
    let sample =
        answered(pool, async { B::observe_outbox(&mut *hold(pool).await?, micros(ttl), micros(lead)).await }).await?;
    Ok(QueueStats::of(sample))
}
