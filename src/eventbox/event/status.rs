//! The status of an event after its emit.

use std::time::SystemTime;

use sqlx::Pool;

use super::receipt::Receipt;
use super::timer::Due;
use crate::error::Result;
use crate::store::{Backend, Fault, Location, answered, hold};

/// Status of an event, as [`status`] returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The event is in its eventbox, and its recipient has no problem.
    Waiting,
    /// The event is a timer that has not moved into its eventbox yet.
    Due {
        /// Time at which the timer is due, by the database's clock.
        at: SystemTime,
    },
    /// The event is gone: a turn has consumed it.
    Done {
        /// Turn of the recipient when the statement found the event gone. This turn or an earlier turn consumed it, so
        /// a state read at this turn or a later turn includes the event. 0 when the recipient has no turn.
        turn: i64,
    },
    /// The event is in quarantine and waits for an operator.
    Quarantined {
        /// Reason as a word.
        code: String,
        /// Reason as a sentence.
        reason: String,
    },
    /// The event is in its eventbox, and its recipient or its kind is paused.
    Paused,
    /// The event is in its eventbox, and its recipient's turns fail.
    Failing {
        /// Number of failures in a row.
        attempts: u32,
        /// Text of the last error.
        error: String,
    },
}

/// Returns the current status of the event of a receipt.
///
/// One statement reads all of the status in one snapshot. [`Status::Done`] is returned for every event that is in none
/// of eventbox, timers and quarantine. Its turn is read in the same snapshot. Every transaction that consumes an event
/// also moves the turn, so a state at that turn or a later turn includes the event.
///
/// An event that an operator purged, or that was cancelled, is done as well. So is **an event of a transaction that has
/// not committed, or was rolled back**: call this only after your commit.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// # use eventbox::{BoxError, Outcome, Reducer};
/// # struct Counter;
/// # impl Reducer for Counter {
/// #     type State = u64;
/// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
/// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
/// #     }
/// # }
/// use eventbox::{Event, Recipient, Status};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let receipt = eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// assert_eq!(eventbox::status(&pool, &receipt).await?, Status::Waiting);
///
/// eventbox::reduce_batch(&pool, &airport, &Counter, 100.try_into()?).await?;
/// assert_eq!(eventbox::status(&pool, &receipt).await?, Status::Done { turn: 1 });
/// # Ok(()) }
/// ```
pub async fn status<B: Backend>(pool: &Pool<B>, of: &Receipt) -> Result<Status> {
    let to = of.to();
    let id = of.id().map(|id| id.0);
    let read = answered(pool, async {
        B::read_status(&mut *hold(pool).await?, to.shard().into(), to.as_str(), id, of.name()).await
    });
    let row = read.await.map_err(|fault: Fault| fault.during(format!("read the status of an event of {to}")))?;
    Ok(match row.location {
        Location::Nowhere => Status::Done { turn: row.turn },
        Location::Timer { due_at_us } => Status::Due { at: Due::time_of(due_at_us) },
        Location::Quarantine { code, reason } => Status::Quarantined { code, reason },
        Location::Box if row.paused => Status::Paused,
        Location::Box => match u32::try_from(row.attempts) {
            Ok(attempts) if attempts > 0 => Status::Failing { attempts, error: row.error.unwrap_or_default() },
            _ => Status::Waiting,
        },
    })
}
