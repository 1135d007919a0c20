//! Counts the rows of the outbox.

use std::time::Duration;

use sqlx::Pool;

use crate::error::Result;
use crate::outbox::row::micros;
use crate::store::{Backend, Fault, MAX_COUNTED_ROWS, OutboxSample, answered, hold};

/// Most rows of the outbox that are counted exactly. Beyond it the numbers are lower bounds.
pub const MAX_COUNTED: i64 = MAX_COUNTED_ROWS;

/// Counts of the outbox: exact up to [`MAX_COUNTED`] rows. Beyond it they are lower bounds, which two fields show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Undelivered rows.
    pub depth: i64,
    /// Whether more undelivered rows exist than were counted. Then `depth`, `payload_bytes`, `near_ttl` and
    /// `oldest_pending_age` are lower bounds.
    pub depth_is_at_least: bool,
    /// All rows, with those that are retained after their delivery.
    pub total_rows: i64,
    /// Whether more rows exist than were counted. Then `total_rows` is a lower bound.
    pub total_is_at_least: bool,
    /// Payload bytes of undelivered rows.
    pub payload_bytes: i64,
    /// Rows that expire within `near_expiry_lead` of the emitter.
    pub near_ttl: i64,
    /// Age of the oldest undelivered row; zero without one.
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

/// Counts the rows of the outbox, up to [`MAX_COUNTED`]. `near_ttl` is 0, because only a `DurableEmitter` knows the
/// time to live.
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
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
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
