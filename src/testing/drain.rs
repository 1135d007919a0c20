//! Processing until there is nothing left to do.

use std::num::NonZeroU32;

use sqlx::Pool;

use crate::cloudevent::CloudEvent;
use crate::error::Error;
use crate::eventbox::{Failure, HookErrors, Processor, process_batch};
use crate::recipient::Recipient;
use crate::store::Backend;

/// What the turns of a [`drain`] did together.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Drained {
    /// How many turns were committed.
    pub turns: u32,
    /// How many events were consumed.
    pub consumed: usize,
    /// How many events were removed as garbage.
    pub garbage: usize,
    /// Independent transitions that failed alone; their events are still in the box.
    pub failures: Vec<Failure>,
    /// The messages that were published, in order; they are in the outbox.
    pub published: Vec<CloudEvent>,
}

/// Why a recipient could not be drained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// A turn failed.
    #[error(transparent)]
    Turn(#[from] Error),
    /// Hooks failed; all of that turn have run, it stands, and no further one was begun.
    #[error("run the hooks of turn {turn} of {recipient}")]
    Hook {
        /// Whose turn.
        recipient: Recipient,
        /// The turn.
        turn: i64,
        /// What those that failed said.
        source: HookErrors,
    },
    /// There was still something to do after the last turn that was allowed: each turn may cause the next one.
    #[error("{recipient} is not idle after {turns} turns: allow more, or find out why each turn causes another one")]
    NeverIdle {
        /// Whose turns.
        recipient: Recipient,
        /// How many there were.
        turns: u32,
    },
}

/// Processes a recipient, and runs the hooks of its turns, until there is nothing left to do.
///
/// Use it to bring a test's entity to rest; wrap a reducer as [`ReducerAsProcessor`](crate::ReducerAsProcessor). Other recipients, to which the turns may have
/// emitted, are not processed.
///
/// # Units and limits
///
/// `max_events` for one turn, as in [`process_batch`](crate::process_batch); at most `max_turns` turns.
///
/// # Errors
///
/// A failed turn or hook, and [`DrainError::NeverIdle`] when the box is not idle after `max_turns`. Turns that were committed stand.
///
/// # Cancel safety
///
/// As [`process_batch`](crate::process_batch).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, ReducerAsProcessor, testing};
///
/// struct Counter;
/// impl Reducer for Counter {
///     type State = u64;
///     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
///         Ok(Outcome::to(count + events.len() as u64).consuming(events))
///     }
/// }
///
/// let airport = Recipient::new("airport", "JFK")?;
/// for _ in 0..5 {
///     eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// }
/// let drained = testing::drain(&pool, &airport, &ReducerAsProcessor::new(&Counter), 2.try_into()?, 10.try_into()?).await?;
/// assert_eq!((drained.turns, drained.consumed), (3, 5));
/// # Ok(()) }
/// ```
pub async fn drain<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    max_events: NonZeroU32,
    max_turns: NonZeroU32,
) -> Result<Drained, DrainError>
where
    B: Backend,
    P: Processor<B>,
{
    let mut drained = Drained::default();
    loop {
        if drained.turns == max_turns.get() && !is_idle(pool, to, processor, max_events).await? {
            return Err(DrainError::NeverIdle { recipient: to.clone(), turns: drained.turns });
        }
        if drained.turns == max_turns.get() {
            return Ok(drained);
        }
        let mut turn = process_batch(pool, to, processor, max_events).await?;
        let Some(number) = turn.number else { return Ok(drained) };
        drained.turns += 1;
        drained.consumed += turn.consumed;
        drained.garbage += turn.garbage;
        drained.published.extend(turn.published.iter().map(|stored| stored.event().clone()));
        drained.failures.append(&mut turn.failures);
        if let Some(source) = turn.hook_errors {
            return Err(DrainError::Hook { recipient: to.clone(), turn: number, source });
        }
    }
}

async fn is_idle<B, P>(pool: &Pool<B>, to: &Recipient, processor: &P, max_events: NonZeroU32) -> Result<bool, Error>
where
    B: Backend,
    P: Processor<B>,
{
    Ok(super::rehearse(pool, to, processor, max_events).await?.is_none())
}
