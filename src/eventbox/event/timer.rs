//! Events for later.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use super::{Event, EventId};
use crate::clock;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::emit::wake_up;
use crate::recipient::{Recipient, check_key};
use crate::store::{Backend, Bound, DueRow, EmitExecutor, Fault, MovedShard, answered, hold};

/// The furthest that a timer may be away: 100 years.
pub const MAX_TIMER: Duration = Duration::from_secs(36_525 * 86_400);

/// The most timers that one call of [`timers`] answers.
pub const MAX_LISTED_TIMERS: u32 = 1_000;

/// The most bytes that the values of one call of [`timers`] have together; one timer is always listed.
pub const MAX_LISTED_TIMER_BYTES: usize = 32 << 20;

/// The most timers that one call of [`move_due`] moves.
pub const MAX_MOVED: u32 = 10_000;

/// When an event comes into its box: [`Event::due_at`], [`Event::due_in`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// When the database's clock shows this time.
    At(SystemTime),
    /// So long after the emit, by the database's clock. In a test that has set a `testing::Clock`, by that one.
    In(Duration),
}

impl Due {
    pub(super) fn at_us(since_us: i64) -> Self {
        Due::At(Due::time_of(since_us))
    }

    pub(super) fn time_of(since_us: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since_us).unwrap_or(0))
    }

    /// Checks the limit, by the clock of this process where it is a time.
    pub(crate) fn check(self) -> Result<(), Misuse> {
        let wait = match self {
            Due::At(at) => at.duration_since(clock::now()).unwrap_or_default(),
            Due::In(wait) => wait,
        };
        if wait > MAX_TIMER { Err(Misuse::TooFar { wait, limit: MAX_TIMER }) } else { Ok(()) }
    }

    /// What is stored. A time before 1970 is over like any other.
    pub(crate) fn row(self) -> DueRow {
        match self {
            Due::At(at) => DueRow::AtUs(micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())),
            // In a test whose clock is moved, so long after the time that it shows.
            Due::In(wait) => match clock::moved().and_then(|now| now.checked_add(wait)) {
                Some(at) => Due::At(at).row(),
                None => DueRow::InUs(micros(wait)),
            },
        }
    }
}

/// Takes a timer back; `true` when there was one, and it will not come.
///
/// `false` when the recipient has no timer of that name: it never had one, it is in the box already, or it was cancelled before. Against a
/// move at the same moment, one of the two wins, wholly. The executor decides how far it is atomic, as in [`emit`](crate::emit).
///
/// The name stays remembered for the tombstone delay: until then a re-send of it is [`Tombstoned`](crate::Emitted::Tombstoned). To move a timer to
/// another time, emit it under a new name. An unnamed timer cannot be cancelled; `admin::purge` takes its id.
///
/// # Errors
///
/// [`Error::Misuse`] before any SQL when the name breaks a limit. [`Error::Unknown`] when the connection was lost: cancel again. Contention,
/// transient and database errors: nothing was changed.
///
/// # Cancel safety
///
/// A dropped future may or may not have cancelled the timer; cancelling again is harmless.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
/// use eventbox::{Event, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// let reminder = Event::new("not paid yet?").named("reminder").due_in(Duration::from_secs(3 * 86_400));
/// eventbox::emit(&pool, &order, reminder).await?;
///
/// // It is paid, in the transaction that notes it:
/// let mut tx = eventbox::begin(&pool).await?;
/// assert!(eventbox::cancel(&mut *tx, &order, "reminder").await?);
/// tx.commit().await?;
/// assert!(!eventbox::cancel(&pool, &order, "reminder").await?);
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

/// The timers of a recipient in the order of their emits, behind `after` (`None`: from the oldest); [`Event::due`] says when each comes.
///
/// # Units and limits
///
/// `limit` is cut to [`MAX_LISTED_TIMERS`], and the answer ends where its values have [`MAX_LISTED_TIMER_BYTES`]. Go on
/// behind the last one of the answer, until the answer is empty.
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
/// use std::time::{Duration, SystemTime};
/// use eventbox::{Due, Event, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// eventbox::emit(&pool, &order, Event::new("not paid yet?").due_in(Duration::from_secs(86_400))).await?;
/// let waiting = eventbox::timers(&pool, &order, None, 10).await?;
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

/// What one call of [`move_due`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// How many timers came into their boxes.
    pub moved: u64,
    /// The shards that they are in, in order: where a worker finds work now.
    pub shards: Vec<u8>,
    /// How long, by the database's clock, until the next one is due; zero when the call stopped at its limit. `None` when the shards have no
    /// other timers. Sleep no longer than your poll interval all the same: another process may emit an earlier one, and timers that
    /// somebody else was holding are not counted.
    pub next_in: Option<Duration>,
}

/// Moves the timers of these shards that are due, by the database's clock, into their boxes: each exactly once, whoever else moves.
///
/// Call it in a loop where no runtime does; any number of processes may. It commits by itself. In each shard those that are due longest come
/// first; when there are more than `max`, the shards share it equally. A call costs one look-up a shard when nothing is due, however
/// many timers there are.
///
/// An event keeps the id of its emit, and a box is listed in the order of ids: a timer that has come is listed before what was emitted after
/// it. A timer that was due long ago, because nobody moved, comes once, and late.
///
/// # Units and limits
///
/// `max` is cut to [`MAX_MOVED`]. Values may be 1 MiB each: a smaller `max` keeps the transaction small.
///
/// # Errors
///
/// Contention, transient and database errors: nothing was moved. When the connection is lost, what was to be moved is in its box or
/// still a timer; call again.
///
/// # Cancel safety
///
/// Safe: all of a call's timers are moved or none.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::{Duration, SystemTime};
/// use eventbox::{Event, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// eventbox::emit(&pool, &order, Event::new("was due").due_at(SystemTime::UNIX_EPOCH)).await?;
/// eventbox::emit(&pool, &order, Event::new("tomorrow").due_in(Duration::from_secs(86_400))).await?;
///
/// let all: Vec<u8> = (0..=255).collect();
/// let moved = eventbox::move_due(&pool, &all, 1_000.try_into()?).await?;
/// assert_eq!((moved.moved, moved.shards), (1, vec![order.shard()]));
/// assert!(moved.next_in > Some(Duration::from_secs(86_000)));
/// # Ok(()) }
/// ```
pub async fn move_due<B: Backend>(pool: &Pool<B>, shards: &[u8], max: NonZeroU32) -> Result<Moved> {
    move_due_at(pool, shards, max, clock::moved()).await
}

/// [`move_due`] by a time that a test says, where there is one.
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
    moved.shards.iter().for_each(|shard| wake_up::mark(*shard));
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

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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
