//! For the tests of your processors and reducers (feature `testing`, not on by default).
//!
//! * [`drain`] processes a recipient until there is nothing left to do.
//! * [`rehearse`] and [`rehearse_reducer`] run a whole turn, return its effects, and roll it back.
//! * [`check_processor`] finds the mistakes that a [`Processor`](crate::Processor) can make in its four methods.
//! * [`check_reducer`] finds the mistakes of a [`Reducer`](crate::Reducer), without a database.
//! * [`Clock`] moves the time of events and messages, from which the waits of timers count.
//! * [`fire_timers`] moves the timers that are due by a time of your choice into their boxes.
//! * [`events_of`] returns the events that wait in a box.
//!
//! Switch it on for tests only: `[dev-dependencies] eventbox = { version = "…", features = ["testing"] }`.

mod conformance;
mod drain;
mod reducers;
mod rehearsal;
mod rehearsing;
mod resting;
mod timers;

use sqlx::Pool;
use uuid::Uuid;

pub use crate::clock::Clock;
use crate::error::Result;
use crate::eventbox::Event;
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, Fault, hold, in_time};

pub use conformance::{LOAD_DEADLINE, Violation, check_processor};
pub use drain::{DrainError, Drained, drain};
pub use reducers::{ReducerViolation, check_reducer};
pub use rehearsal::{Rehearsal, rehearse, rehearse_reducer};
pub use resting::MAX_IDLE_TURNS;
pub use timers::fire_timers;

/// Largest number of events that [`events_of`] returns.
pub const MAX_EVENTS_OF: u32 = 100_000;

/// Returns the events that wait in a recipient's box, oldest first, up to [`MAX_EVENTS_OF`].
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
/// use eventbox::{Event, Recipient, testing};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// assert_eq!(testing::events_of(&pool, &airport).await?[0].value(), b"departed");
/// # Ok(()) }
/// ```
pub async fn events_of<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Vec<Event>> {
    let during = |fault: Fault| fault.during(format!("list the events of {of}"));
    let mut conn = hold(pool).await.map_err(during)?;
    // No bound of bytes, because it is the box of a test.
    let bound = Bound::new(MAX_EVENTS_OF.into(), usize::MAX);
    let rows = in_time::<B, _>(B::list_events(&mut conn, of.shard().into(), of.as_str(), Uuid::nil(), bound)).await;
    Ok(rows.map_err(during)?.rows.into_iter().map(Event::listed).collect())
}
