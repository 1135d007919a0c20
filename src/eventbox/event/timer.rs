//! Timers: events that move into their eventbox at a later time.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use super::{Event, EventId};
use crate::clock::{self, micros};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::emit::wake_up;
use crate::recipient::{Recipient, check_key};
use crate::store::{Backend, Bound, DueRow, EmitExecutor, Fault, MovedShard, answered, hold};

/// Longest time from now to a timer: 100 years.
pub const MAX_TIMER: Duration = Duration::from_secs(36_525 * 86_400);

/// Most timers that one call of [`timers`] returns.
pub const MAX_LISTED_TIMERS: u32 = 1_000;

/// Most bytes of the values of one call of [`timers`] together; a single timer may be larger.
pub const MAX_LISTED_TIMER_BYTES: usize = 32 << 20;

/// Most timers that one call of [`move_due`] moves.
pub const MAX_MOVED: u32 = 10_000;

/// Time at which an event moves into its eventbox: [`Event::due_at`], [`Event::due_in`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// Due when the database's clock has reached this time.
    At(SystemTime),
    /// Due this long after the emit, by the database's clock. In a test that has set a `testing::Clock`, by that clock.
    In(Duration),
}

impl Due {
    pub(super) fn at_us(since_us: i64) -> Self {
        Due::At(Due::time_of(since_us))
    }

    pub(super) fn time_of(since_us: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since_us).unwrap_or(0))
    }

    /// Checks [`MAX_TIMER`]; a time is compared with the clock of this process.
    pub(crate) fn check(self) -> Result<(), Misuse> {
        let wait = match self {
            Due::At(at) => at.duration_since(clock::now()).unwrap_or_default(),
            Due::In(wait) => wait,
        };
        if wait > MAX_TIMER { Err(Misuse::TooFar { wait, limit: MAX_TIMER }) } else { Ok(()) }
    }

    /// Returns the stored form. A time before 1970 is in the past like any other.
    pub(crate) fn row(self) -> DueRow {
        match self {
            Due::At(at) => DueRow::AtUs(micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())),
            // In a test whose clock is moved, the wait begins at the time of that clock.
            Due::In(wait) => match clock::moved().and_then(|now| now.checked_add(wait)) {
                Some(at) => Due::At(at).row(),
                None => DueRow::InUs(micros(wait)),
            },
        }
    }
}

/// Cancels a timer. Returns `true` when there was one, which then never moves.
///
/// Returns `false` when the recipient has no timer of that name: it never had one, it moved into the eventbox already,
/// or it was cancelled before. When `cancel` and a move run at the same time, exactly one of them wins. The executor
/// decides what commits together, as in [`emit`](crate::emit).
///
/// The name is remembered for the tombstone delay: until then a second emit of it is
/// [`Tombstoned`](crate::Emitted::Tombstoned). To change the time of a timer, emit it under a new name. An unnamed
/// timer cannot be cancelled; `admin::purge` takes its id.
///
/// # Errors
///
/// * [`Error::Misuse`] before any SQL when the name breaks a limit.
/// * [`Error::Unknown`] when the connection was lost: cancel again.
/// * Contention, transient and database errors: nothing was changed.
///
/// # Cancel safety
///
/// A dropped future may or may not have cancelled the timer; cancelling again is harmless.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
/// use eventbox::{Event, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// let reminder = Event::new("not paid yet?").named("reminder").due_in(Duration::from_secs(3 * 86_400));
/// eventbox::emit(&pool, &order, reminder).await?;
///
/// // The customer paid: cancel the reminder in the transaction that stores the payment.
/// let mut tx = eventbox::begin(&pool).await?;
/// assert!(eventbox::timer::cancel(&mut *tx, &order, "reminder").await?);
/// tx.commit().await?;
/// assert!(!eventbox::timer::cancel(&pool, &order, "reminder").await?);
/// # Ok(()) }
/// ```
pub async fn cancel<'e, B, E>(executor: E, of: &Recipient, name: &str) -> Result<bool>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    let attempt = || format!("cancel a timer of {of}");
    check_key("event's name", name).map_err(|misuse| Error::misuse(attempt(), misuse))?;
    let (shard, key) = (of.shard().into(), of.as_str());
    let cancelled = match executor.pool() {
        Some(pool) => B::cancel_timer_on_pool(&pool, shard, key, name).await,
        None => B::cancel_timer(executor, shard, key, name).await,
    };
    cancelled.map_err(|fault| fault.during_commit(attempt()))
}

/// Lists the timers of a recipient in the order of their emits, after `after` (`None`: from the oldest). [`Event::due`]
/// returns the time of each.
///
/// # Units and limits
///
/// `limit` is cut to [`MAX_LISTED_TIMERS`], and the list ends where its values have [`MAX_LISTED_TIMER_BYTES`]. Pass
/// the last event of the list to the next call, until the list is empty.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::{Duration, SystemTime};
/// use eventbox::{Event, Recipient, timer::Due};
///
/// let order = Recipient::new("order", "7")?;
/// eventbox::emit(&pool, &order, Event::new("not paid yet?").due_in(Duration::from_secs(86_400))).await?;
/// let waiting = eventbox::timer::timers(&pool, &order, None, 10).await?;
/// assert!(matches!(waiting[0].due(), Some(Due::At(at)) if at > SystemTime::now()));
/// # Ok(()) }
/// ```
pub async fn timers<B: Backend>(
    pool: &Pool<B>,
    of: &Recipient,
    after: Option<EventId>,
    limit: u32,
) -> Result<Vec<Event>> {
    let after = after.map_or(Uuid::nil(), |after| after.0);
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let bound = Bound::new(limit.min(MAX_LISTED_TIMERS).into(), MAX_LISTED_TIMER_BYTES);
        B::list_timers(conn, of.shard().into(), of.as_str(), after, bound).await
    });
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list the timers of {of}")))?;
    Ok(rows.rows.into_iter().map(Event::timed).collect())
}

/// Result of one call of [`move_due`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Number of timers that moved into their eventboxes.
    pub moved: u64,
    /// Shards of these timers, in order: a worker finds new events there.
    pub shards: Vec<u8>,
    /// Time until the next timer is due, by the database's clock; zero when the call stopped at its limit. `None` when
    /// the shards have no other timers. Sleep no longer than your poll interval all the same: another process may emit
    /// an earlier timer, and timers locked by other transactions are not counted.
    pub next_in: Option<Duration>,
}

/// Moves the due timers of these shards, by the database's clock, into their eventboxes. Each moves exactly once, also
/// when several processes call this.
///
/// A runtime calls this by itself. Without a runtime, call it in a loop, in any number of processes. It commits by
/// itself. In each shard the timers that are due longest move first. When more than `max` are due, the shards share
/// `max` equally. A call with no due timer costs one look-up per shard, independent of the number of timers.
///
/// An event keeps the id of its emit, and an eventbox is listed in the order of ids: a moved timer is listed before
/// events that were emitted after it. A timer that was due long ago, because no process moved timers, moves once, and
/// late.
///
/// # Units and limits
///
/// `max` is cut to [`MAX_MOVED`]. Values may be 1 MiB each: a smaller `max` keeps the transaction small.
///
/// # Errors
///
/// Contention, transient and database errors: nothing was moved. When the connection is lost, each timer is either in
/// its eventbox or still a timer; call again.
///
/// # Cancel safety
///
/// Safe: all of a call's timers are moved or none.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::{Duration, SystemTime};
/// use eventbox::{Event, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// eventbox::emit(&pool, &order, Event::new("was due").due_at(SystemTime::UNIX_EPOCH)).await?;
/// eventbox::emit(&pool, &order, Event::new("tomorrow").due_in(Duration::from_secs(86_400))).await?;
///
/// let all: Vec<u8> = (0..=255).collect();
/// let moved = eventbox::timer::move_due(&pool, &all, 1_000.try_into()?).await?;
/// assert_eq!((moved.moved, moved.shards), (1, vec![order.shard()]));
/// assert!(moved.next_in > Some(Duration::from_secs(86_000)));
/// # Ok(()) }
/// ```
pub async fn move_due<B: Backend>(pool: &Pool<B>, shards: &[u8], max: NonZeroU32) -> Result<Moved> {
    move_due_at(pool, shards, max, clock::moved()).await
}

/// Does what [`move_due`] does, by the time of a test's clock if there is one.
pub(crate) async fn move_due_at<B: Backend>(
    pool: &Pool<B>,
    shards: &[u8],
    max: NonZeroU32,
    now: Option<SystemTime>,
) -> Result<Moved> {
    let mut shards: Vec<i16> = shards.iter().copied().map(i16::from).collect();
    shards.sort_unstable();
    shards.dedup();
    let now_us = now.map(|now| micros(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
    let done = B::move_timers(pool, &shards, max.get().min(MAX_MOVED).into(), now_us).await;
    let done = done.map_err(|fault| fault.during(format!("move the timers of {} shards", shards.len())))?;
    let moved = moved(&done);
    moved.shards.iter().for_each(|shard| wake_up::wake_shard(*shard));
    Ok(moved)
}

fn moved(rows: &[MovedShard]) -> Moved {
    let mut shards: Vec<u8> =
        rows.iter().filter(|row| row.moved > 0).filter_map(|row| u8::try_from(row.shard).ok()).collect();
    shards.sort_unstable();
    let next_in_us = rows.iter().filter_map(|row| row.next_in_us).min();
    Moved {
        moved: rows.iter().map(|row| row.moved.unsigned_abs()).sum(),
        shards,
        next_in: next_in_us.map(|wait| Duration::from_micros(u64::try_from(wait).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock of the process plays no part in a wait: the statement adds it to the database's.
    #[test]
    fn a_wait_is_counted_by_the_clock_of_the_database() {
        assert!(matches!(Due::In(Duration::from_secs(1)).row(), DueRow::InUs(1_000_000)));
    }
}
