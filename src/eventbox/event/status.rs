//! What became of an event that was emitted.

use std::time::SystemTime;

use sqlx::Pool;

use super::receipt::Receipt;
use super::timer::Due;
use crate::error::Result;
use crate::store::{Backend, Fault, Whereabouts, answered, hold};

/// What became of an event: [`status`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It is in its box, and nothing is wrong with its recipient.
    Waiting,
    /// It is a timer that has not come into its box yet.
    Due {
        /// When it is due, by the database's clock.
        at: SystemTime,
    },
    /// It is gone: a turn has consumed it.
    Done {
        /// The recipient's turn at the moment at which the event was seen to be gone. The turn that consumed it is this one or an earlier one,
        /// so a state that is read at this turn or a later one includes it. 0 when the recipient has no turn.
        turn: i64,
    },
    /// It was taken aside: it waits in quarantine for an operator.
    Quarantined {
        /// Why, as a word.
        code: String,
        /// Why, in a sentence.
        reason: String,
    },
    /// It is in its box, and its recipient or all of its kind is paused.
    Paused,
    /// It is in its box, and its recipient's turns fail.
    Failing {
        /// How often in a row.
        attempts: u32,
        /// How it failed last.
        error: String,
    },
}

/// What became of the event that a receipt stands for, now.
///
/// One statement, so all of the answer is of one moment. [`Status::Done`] is said of every event that is in none of box, timers and
/// quarantine, and its turn is read in that same moment: everything that consumes an event moves the turn in the same transaction, so a
/// state at that turn or a later one includes the event.
///
/// *Gone* is all that can be told, so what was purged by an operator, or cancelled, is done as well. So is **what was emitted in a
/// transaction that has not committed, or was rolled back**: ask only after your commit.
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
    Ok(match row.whereabouts {
        Whereabouts::Nowhere => Status::Done { turn: row.turn },
        Whereabouts::Timer { due_at_us } => Status::Due { at: Due::time_of(due_at_us) },
        Whereabouts::Quarantine { code, reason } => Status::Quarantined { code, reason },
        Whereabouts::Box if row.paused => Status::Paused,
        Whereabouts::Box => match u32::try_from(row.attempts) {
            Ok(attempts) if attempts > 0 => Status::Failing { attempts, error: row.error.unwrap_or_default() },
            _ => Status::Waiting,
        },
    })
}
