//! Events in quarantine.

use std::time::SystemTime;

use sqlx::Pool;
use uuid::Uuid;

use super::events::{MAX_LISTED, MAX_LISTED_BYTES};
use super::{Operator, time_of};
use crate::error::Result;
use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, Fault, ListedRow, QuarantinedRow, answered, hold};

/// Largest number of bytes of a reason.
pub const MAX_REASON_BYTES: usize = 1_024;

/// The code of an event that an operator took aside.
pub const QUARANTINED: &str = "QUARANTINED";

/// An event in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// Event, with the id that it had in its box.
    pub event: Event,
    /// Reason in one word: [`QUARANTINED`] when an operator took the event aside.
    pub code: String,
    /// Reason in words.
    pub reason: String,
    /// Number of counted attempts to process the event.
    pub attempts: u32,
    /// Time at which the event was taken aside, by the database's clock.
    pub quarantined_at: SystemTime,
}

/// Moves events from their box into the quarantine, with a reason. Returns the number of moved events.
///
/// The other events of the box go on. The names of events in quarantine stay remembered, so a re-send is a duplicate.
///
/// # Units and limits
///
/// At most [`MAX_IDS`](super::MAX_IDS) ids; a reason of 1 to [`MAX_REASON_BYTES`] bytes without NUL.
///
/// # Errors
///
/// [`Error::Misuse`](crate::Error::Misuse) before any SQL when a limit is exceeded. Contention, transient and database
/// errors: nothing was changed. [`Error::Unknown`](crate::Error::Unknown): call again.
///
/// # Cancel safety
///
/// Safe: either all of the events are moved or none of them.
///
/// # Examples
///
/// See [the module](crate::admin).
pub async fn quarantine<B: Backend>(pool: &Pool<B>, of: &Recipient, ids: &[EventId], reason: &str) -> Result<u64> {
    Ok(Operator::unnamed(pool).quarantine(of, ids, reason).await?.touched)
}

/// Lists the events of a recipient in quarantine behind `after`, oldest first. With `None` the list begins at the
/// oldest event.
///
/// # Units and limits
///
/// At most `limit` events, at most [`MAX_LISTED`](super::MAX_LISTED), and at most as many as fit into
/// [`MAX_LISTED_BYTES`](super::MAX_LISTED_BYTES).
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// See [the module](crate::admin).
pub async fn quarantined<B: Backend>(
    pool: &Pool<B>,
    of: &Recipient,
    after: Option<EventId>,
    limit: u32,
) -> Result<Vec<Quarantined>> {
    let after = after.map_or(Uuid::nil(), |after| after.0);
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let bound = Bound::new(limit.min(MAX_LISTED).into(), MAX_LISTED_BYTES);
        B::list_quarantined(conn, of.shard().into(), of.as_str(), after, bound).await
    });
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list the quarantine of {of}")))?;
    Ok(rows.rows.into_iter().map(Quarantined::of).collect())
}

impl Quarantined {
    fn of(row: QuarantinedRow) -> Self {
        let QuarantinedRow { id, name, traceparent, origin, value, code, reason, attempts, dead_at_us } = row;
        Quarantined {
            event: Event::listed(ListedRow { id, name, traceparent, origin, value }),
            code,
            reason,
            attempts: u32::try_from(attempts).unwrap_or(0),
            quarantined_at: time_of(dead_at_us),
        }
    }
}

/// Moves events from the quarantine back into their box. Returns the number of moved events.
///
/// The events keep their ids, and thereby their places in the order of the box. They keep their names too, which are
/// remembered as if the events had never left. A second replay of an event changes nothing.
///
/// # Errors
///
/// As [`quarantine`].
///
/// # Cancel safety
///
/// Safe: either all of the events are moved or none of them.
///
/// # Examples
///
/// See [the module](crate::admin).
pub async fn replay<B: Backend>(pool: &Pool<B>, of: &Recipient, ids: &[EventId]) -> Result<u64> {
    Ok(Operator::unnamed(pool).replay(of, ids).await?.touched)
}

/// Deletes events in quarantine for good. Returns the number of deleted events.
///
/// The names of the events stay remembered for the tombstone delay.
///
/// # Errors
///
/// As [`quarantine`].
///
/// # Cancel safety
///
/// Safe: either all of the events are deleted or none of them.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient, admin};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed")).await?;
/// let bad = admin::events(&pool, &aircraft, None, 1).await?[0].id();
/// admin::quarantine(&pool, &aircraft, &[bad], "no flight number").await?;
/// assert_eq!(admin::discard(&pool, &aircraft, &[bad]).await?, 1);
/// assert!(admin::quarantined(&pool, &aircraft, None, 10).await?.is_empty());
/// # Ok(()) }
/// ```
pub async fn discard<B: Backend>(pool: &Pool<B>, of: &Recipient, ids: &[EventId]) -> Result<u64> {
    Ok(Operator::unnamed(pool).discard(of, ids).await?.touched)
}
