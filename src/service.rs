//! The reports of everything that starts and stops.
//!
//! A service starts once: a second start does nothing. `stop(limit)` takes no more work, finishes what is in flight and
//! returns a [`StopReport`] within the limit. A second stop returns soon. A service that is dropped stops by itself,
//! without waiting. [`Health`] lists what is wrong now.

/// Report of a stop. Nothing is lost: events are in their eventboxes, messages in the outbox.
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
/// let sender = eventbox::Sender::new(pool);
/// let report = sender.stop(Duration::from_secs(10)).await;
/// assert!(report.complete, "{} events had no outcome", report.left);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether the service finished everything in flight within the limit.
    pub complete: bool,
    /// Number of pieces of work that the service knew and did not do: recipients with events, emits, rows of the
    /// outbox.
    pub left: usize,
    /// Number of rounds, turns or calls that the limit cut off.
    pub interrupted: usize,
}

impl StopReport {
    /// Everything was done in time.
    pub(crate) const COMPLETE: StopReport = StopReport { complete: true, left: 0, interrupted: 0 };

    /// The limit passed first, or everything was done.
    pub(crate) fn in_time(complete: bool) -> Self {
        StopReport { complete, ..StopReport::COMPLETE }
    }
}

/// Current problems of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Problems, a sentence each; empty when nothing is wrong.
    pub problems: Vec<String>,
}

impl Health {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}
