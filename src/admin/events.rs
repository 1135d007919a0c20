//! Looking into a box, and emptying it.

use sqlx::Pool;
use uuid::Uuid;

use super::{begin_moving, end};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, Fault, answered, hold};

/// The most events that one listing answers.
pub const MAX_LISTED: u32 = 1_000;

/// The most bytes that the values of one listing have together, also of [`quarantined`](super::quarantined) events; one
/// event is always listed.
pub const MAX_LISTED_BYTES: usize = 32 << 20;

/// The most ids that one call takes.
pub const MAX_IDS: usize = 10_000;

/// Number of events that [`purge_all`] deletes in one transaction.
pub const PURGE_SLICE: u32 = 10_000;

/// The events of a box, oldest first, behind `after` (`None`: from the oldest); at most `limit` and [`MAX_LISTED`], and
/// no more than fit into [`MAX_LISTED_BYTES`].
///
/// Go on behind the last one of the answer, until the answer is empty: an answer may be shorter than `limit` because
/// its values are large.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
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
    /// The oldest of them; [`EventId::emitted_at`] tells when it was emitted. `None` when none waits.
    pub oldest: Option<EventId>,
}

/// How many events wait in a box and which is the oldest, exactly and now; the gauges of the metrics only know the last listing.
///
/// It reads the keys of the whole box: a page of an administrator may ask it, a loop should not.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
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

/// Deletes events for good, of the box and among the timers; answers how many were there. Their names stay remembered for the tombstone delay.
///
/// [`quarantine`](super::quarantine()) keeps them; this does not.
///
/// # Units and limits
///
/// At most [`MAX_IDS`].
///
/// # Errors
///
/// [`Error::Misuse`] before any SQL over the limit; contention, transient and database errors: nothing was changed. [`Error::Unknown`]: do it
/// again.
///
/// # Cancel safety
///
/// Safe: all of them are deleted or none.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
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
    let attempt = || format!("purge {} events of {of}", ids.len());
    let ids = check_ids(ids).map_err(|misuse| Error::misuse(attempt(), misuse))?;
    let write = async {
        let mut tx = begin_moving(pool, of).await?;
        let (shard, recipient) = (of.shard().into(), of.as_str());
        // Timers come first: one that is being moved meanwhile is waited for, and is then found in the box.
        let timers = B::delete_timers(&mut tx, shard, recipient, &ids).await?;
        let purged = timers + B::delete_events(&mut tx, shard, recipient, &ids).await?;
        Ok((tx, purged))
    };
    let (tx, purged) = write.await.map_err(|fault: Fault| fault.during(attempt()))?;
    end(tx, purged > 0, attempt()).await?;
    Ok(purged)
}

/// Deletes all events that a box holds, and all timers that the recipient has, when the call begins, for good; answers how many.
///
/// [`PURGE_SLICE`] events a transaction, oldest first; what is emitted meanwhile stays. Pause the recipient first if nothing must be processed
/// in between.
///
/// # Errors
///
/// As [`purge`]; the slices that were committed before the error stay deleted.
///
/// # Cancel safety
///
/// Safe: the slices that were committed stay deleted.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient, admin};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed")).await?;
/// assert_eq!(admin::purge_all(&pool, &aircraft).await?, 1);
/// # Ok(()) }
/// ```
pub async fn purge_all<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<u64> {
    let attempt = || format!("purge all events of {of}");
    let (shard, recipient) = (of.shard().into(), of.as_str());
    let newest = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        // The timers come first, here and below: one that is moved in between is found in the box.
        let timer = B::newest_timer(conn, shard, recipient).await?;
        Ok(timer.max(B::newest_event(conn, shard, recipient).await?))
    });
    let Some(newest) = newest.await.map_err(|fault: Fault| fault.during(attempt()))? else { return Ok(0) };
    let mut total = 0;
    loop {
        let write = async {
            let mut tx = begin_moving(pool, of).await?;
            let timers = B::purge_timers(&mut tx, shard, recipient, newest, PURGE_SLICE.into()).await?;
            let left = i64::from(PURGE_SLICE).saturating_sub_unsigned(timers);
            let events = B::purge_events(&mut tx, shard, recipient, newest, left).await?;
            Ok((tx, timers + events))
        };
        let (tx, purged) = write.await.map_err(|fault: Fault| fault.during(attempt()))?;
        end(tx, purged > 0, attempt()).await?;
        total += purged;
        if purged < u64::from(PURGE_SLICE) {
            return Ok(total);
        }
    }
}

/// The ids without doubles.
pub(super) fn check_ids(ids: &[EventId]) -> Result<Vec<Uuid>, Misuse> {
    if ids.len() > MAX_IDS {
        return Err(Misuse::TooMany { count: ids.len(), limit: MAX_IDS });
    }
    let mut ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
