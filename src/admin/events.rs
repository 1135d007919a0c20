//! Looking into a box, and emptying it.

use sqlx::Pool;
use uuid::Uuid;

use super::{begin_moving, end};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault};

/// The most events that one listing answers.
pub const MAX_LISTED: u32 = 1_000;

/// The most ids that one call takes.
pub const MAX_IDS: usize = 10_000;

/// How many events [`purge_all`] deletes in one transaction.
pub const PURGE_SLICE: u32 = 10_000;

/// The events of a box, oldest first, behind `after` (`None`: from the oldest); at most `limit` and [`MAX_LISTED`].
///
/// Go on behind the last one of the answer, until the answer is empty. Values may be 1 MiB each: ask for pages that fit your memory.
///
/// # Errors
///
/// Transient and database errors.
pub async fn events<B: Backend>(
    pool: &Pool<B>,
    of: &Recipient,
    after: Option<EventId>,
    limit: u32,
) -> Result<Vec<Event>> {
    let after = after.map_or(Uuid::nil(), |after| after.0);
    let read = async {
        let conn = &mut *pool.acquire().await?;
        B::list_events(conn, of.shard().into(), of.as_str(), after, limit.min(MAX_LISTED).into()).await
    };
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list the events of {of}")))?;
    Ok(rows.into_iter().map(Event::listed).collect())
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
pub async fn purge_all<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<u64> {
    let attempt = || format!("purge all events of {of}");
    let (shard, recipient) = (of.shard().into(), of.as_str());
    let newest = async {
        let conn = &mut *pool.acquire().await?;
        // The timers come first, here and below: one that is moved in between is found in the box.
        let timer = B::newest_timer(conn, shard, recipient).await?;
        Ok(timer.max(B::newest_event(conn, shard, recipient).await?))
    };
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
