//! Listing, counting and deleting the events of a box.

use sqlx::Pool;
use uuid::Uuid;

use super::Operator;
use crate::error::{Misuse, Result};
use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, Fault, answered, hold};

/// Largest number of events of one listing.
pub const MAX_LISTED: u32 = 1_000;

/// Largest number of bytes of the values of one listing together, also of [`quarantined`](super::quarantined) events.
///
/// A listing always has at least one event if there is any.
pub const MAX_LISTED_BYTES: usize = 32 << 20;

/// Largest number of ids of one call.
pub const MAX_IDS: usize = 10_000;

/// Number of events that [`purge_all`] deletes in one transaction.
pub const PURGE_SLICE: u32 = 10_000;

/// Lists the events of a box behind `after`, oldest first. With `None` the list begins at the oldest event.
///
/// For the next page, pass the id of the last event. Stop at an empty page only, because a page may be shorter than
/// `limit` when its values are large.
///
/// # Units and limits
///
/// At most `limit` events, at most [`MAX_LISTED`], and at most as many as fit into [`MAX_LISTED_BYTES`].
///
/// # Errors
///
/// Transient and database errors.
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
/// let page = admin::events(&pool, &aircraft, None, 100).await?;
/// assert_eq!(page[0].value(), b"departed");
/// let behind = admin::events(&pool, &aircraft, page.last().map(|event| event.id()), 100).await?;
/// assert!(behind.is_empty());
/// # Ok(()) }
/// ```
pub async fn events<B: Backend>(
    pool: &Pool<B>,
    of: &Recipient,
    after: Option<EventId>,
    limit: u32,
) -> Result<Vec<Event>> {
    let after = after.map_or(Uuid::nil(), |after| after.0);
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let bound = Bound::new(limit.min(MAX_LISTED).into(), MAX_LISTED_BYTES);
        B::list_events(conn, of.shard().into(), of.as_str(), after, bound).await
    });
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list the events of {of}")))?;
    Ok(rows.rows.into_iter().map(Event::listed).collect())
}

/// Exact number and oldest of the events in a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Number of events in the box.
    pub events: u64,
    /// Id of the oldest event, whose [`EventId::emitted_at`] is the time of its emit. `None` when no event waits.
    pub oldest: Option<EventId>,
}

/// Counts the events of a box and finds the oldest, exactly and now. The gauges of the metrics lag behind.
///
/// The call reads the keys of the whole box. A page of an administrator may call it, a loop should not.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient, admin};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed")).await?;
/// let backlog = admin::backlog(&pool, &aircraft).await?;
/// assert_eq!(backlog.events, 1);
/// assert!(backlog.oldest.ok_or("one waits")?.emitted_at() <= std::time::SystemTime::now());
/// # Ok(()) }
/// ```
pub async fn backlog<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Backlog> {
    let read = answered(pool, async { B::measure_box(&mut *hold(pool).await?, of.shard().into(), of.as_str()).await });
    let (events, oldest) = read.await.map_err(|fault: Fault| fault.during(format!("measure the box of {of}")))?;
    Ok(Backlog { events: events.unsigned_abs(), oldest: oldest.map(EventId) })
}

/// Deletes events for good, from the box and from the timers. Returns the number of deleted events.
///
/// The names of the events stay remembered for the tombstone delay. To keep the events, call
/// [`quarantine`](super::quarantine()).
///
/// # Units and limits
///
/// At most [`MAX_IDS`] ids.
///
/// # Errors
///
/// [`Error::Misuse`](crate::Error::Misuse) before any SQL when the limit is exceeded. Contention, transient and
/// database errors: nothing was changed. [`Error::Unknown`](crate::Error::Unknown): call again.
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
/// let oldest = admin::events(&pool, &aircraft, None, 1).await?[0].id();
/// assert_eq!(admin::purge(&pool, &aircraft, &[oldest]).await?, 1);
/// assert_eq!(admin::purge(&pool, &aircraft, &[oldest]).await?, 0);
/// # Ok(()) }
/// ```
pub async fn purge<B: Backend>(pool: &Pool<B>, of: &Recipient, ids: &[EventId]) -> Result<u64> {
    Ok(Operator::unnamed(pool).purge(of, ids).await?.touched)
}

/// Deletes for good all events of a box and all timers of its recipient. Returns the number of deleted events.
///
/// One transaction deletes [`PURGE_SLICE`] events, oldest first. Events that are emitted after the begin of the call
/// stay. Pause the recipient first if no event may be processed in between.
///
/// # Errors
///
/// As [`purge`]. The slices that were committed before the error stay deleted.
///
/// # Cancel safety
///
/// Safe: the slices that were committed stay deleted.
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
/// assert_eq!(admin::purge_all(&pool, &aircraft).await?, 1);
/// # Ok(()) }
/// ```
pub async fn purge_all<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<u64> {
    Ok(Operator::unnamed(pool).purge_all(of, |_| ()).await?.touched)
}

/// Returns the ids without duplicates, or the misuse when there are too many.
pub(super) fn check_ids(ids: &[EventId]) -> Result<Vec<Uuid>, Misuse> {
    if ids.len() > MAX_IDS {
        return Err(Misuse::TooMany { count: ids.len(), limit: MAX_IDS });
    }
    let mut ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
