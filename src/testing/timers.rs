//! Timers that fire at the call of a test.

use std::num::NonZeroU32;
use std::time::SystemTime;

use sqlx::Pool;

use crate::error::Result;
use crate::eventbox::{MAX_MOVED, move_due_at};
use crate::store::Backend;

/// Largest number of timers that one transaction moves.
const MOVE_AT_ONCE: NonZeroU32 = match NonZeroU32::new(MAX_MOVED) {
    Some(timers) => timers,
    None => NonZeroU32::MIN,
};

/// Moves every timer that is due by `up_to` into its box, whatever the database's clock shows. Returns their number.
///
/// The call does not wait: a test of a reminder of 30 days calls `fire_timers(&pool, now + 30 days)`. It moves the
/// timers of all recipients of the database, by the same statement as in production. A timer that was emitted under a
/// [`Clock`](crate::testing::Clock) is due by that clock, so pass `clock.now()`.
///
/// # Errors
///
/// As [`move_due`](crate::timer::move_due). Timers that were moved before the error stay in their boxes. Call again.
///
/// # Cancel safety
///
/// Safe: each timer is either in its box or still a timer.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::{Duration, SystemTime};
///
/// use eventbox::testing::{self, Clock};
/// use eventbox::{Event, Recipient};
///
/// const DAY: Duration = Duration::from_secs(86_400);
/// let order = Recipient::new("order", "7")?;
/// let clock = Clock::at(SystemTime::now());
/// let reminder = Event::new("not paid yet?").due_in(30 * DAY);
/// clock.scope(async { eventbox::emit(&pool, &order, reminder).await }).await?;
///
/// clock.advance(29 * DAY);
/// assert_eq!(testing::fire_timers(&pool, clock.now()).await?, 0);
/// clock.advance(DAY);
/// assert_eq!(testing::fire_timers(&pool, clock.now()).await?, 1);
/// assert_eq!(testing::events_of(&pool, &order).await?.len(), 1);
/// # Ok(()) }
/// ```
pub async fn fire_timers<B: Backend>(pool: &Pool<B>, up_to: SystemTime) -> Result<u64> {
    let shards: Vec<u8> = (0..=u8::MAX).collect();
    let mut fired = 0;
    loop {
        let moved = move_due_at(pool, &shards, MOVE_AT_ONCE, Some(up_to)).await?;
        fired += moved.moved;
        if moved.moved == 0 {
            return Ok(fired);
        }
    }
}
