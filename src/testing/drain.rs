//! Processing until there is nothing left to do.

use std::num::NonZeroU32;

use sqlx::Pool;

use crate::cloudevent::CloudEvent;
use crate::error::Error;
use crate::eventbox::{Failure, HookErrors, Processor, process_batch};
use crate::recipient::Recipient;
use crate::store::Backend;

/// The sum of the turns of a [`drain`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Drained {
    /// Number of committed turns.
    pub turns: u32,
    /// Number of consumed events.
    pub consumed: usize,
    /// Number of events that were removed as garbage.
    pub garbage: usize,
    /// Independent transitions that failed alone. Their events are still in the box.
    pub failures: Vec<Failure>,
    /// Published messages, in order. They are in the outbox.
    pub published: Vec<CloudEvent>,
}

/// The reason why a [`drain`] ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// A failed turn.
    #[error(transparent)]
    Turn(#[from] Error),
    /// Failed hooks of a turn. All hooks of the turn have run, and the turn stays committed. The drain began no further
    /// turn.
    #[error("run the hooks of turn {turn} of {recipient}")]
    Hook {
        /// Recipient of the turn.
        recipient: Recipient,
        /// Number of the turn.
        turn: i64,
        /// Errors of the hooks that failed.
        source: HookErrors,
    },
    /// Work left after the last turn that was allowed. Each turn may cause the next turn.
    #[error("{recipient} is not idle after {turns} turns: allow more, or find out why each turn causes another one")]
    NeverIdle {
        /// Recipient of the turns.
        recipient: Recipient,
        /// Number of turns.
        turns: u32,
    },
}

/// Processes a recipient, and runs the hooks of its turns, until there is nothing left to do.
///
/// Use it to bring a test's entity to rest. Wrap a reducer as [`ReducerAsProcessor`](crate::ReducerAsProcessor).
/// The turns may emit to other recipients, which are not processed.
///
/// # Units and limits
///
/// One turn lists at most `max_events` events, as in [`process_batch`](crate::process_batch). At most `max_turns` turns
/// run.
///
/// # Errors
///
/// A failed turn or hook, and [`DrainError::NeverIdle`] when the box is not idle after `max_turns`. Committed turns
/// stay committed.
///
/// # Cancel safety
///
/// As [`process_batch`](crate::process_batch).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
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
/// let counter = ReducerAsProcessor::new(&Counter);
/// let drained = testing::drain(&pool, &airport, &counter, 2.try_into()?, 10.try_into()?).await?;
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
