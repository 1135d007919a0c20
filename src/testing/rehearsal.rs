//! A turn that is run and rolled back.

use std::num::NonZeroU32;
use std::sync::Arc;

use sqlx::Pool;

use super::rehearsing::run;
use crate::cloudevent::CloudEvent;
use crate::error::{Error, Result, StateError};
use crate::eventbox::{Event, EventId, Next, Processor, Reducer, ReducerAsProcessor, StateCodec};
use crate::recipient::Recipient;
use crate::store::Backend;

/// The effects of a turn, as plain data.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct Rehearsal<S> {
    /// State that the turn would save. With a processor this is never [`Next::Gone`].
    pub next: Next<S>,
    /// Events that the turn would consume, without the events of independent transitions that failed.
    pub consumed: Vec<EventId>,
    /// Events that the turn would remove as garbage.
    pub garbage: Vec<EventId>,
    /// Events that the turn would emit, in order, with the ids that they had. A named event that would be a duplicate
    /// is left out.
    pub emitted: Vec<(Recipient, Event)>,
    /// Messages that the turn would publish, in order, with their idempotency keys.
    pub published: Vec<CloudEvent>,
    /// Number of hooks of the decision. None of them has run.
    pub hooks: usize,
}

/// Runs the next turn of a recipient to its last step, returns its effects, and rolls it back.
///
/// The steps are real: the listing, the checks of the decision, the statements of side effects, the save. Nothing stays
/// in the database, and no hook runs. Use it to assert what a decision sends and saves, without a clean-up.
///
/// # What comes back
///
/// `None` when there is nothing to do. The emitted events and published messages are those of the turn's own calls.
/// Rows that other writers insert in the meantime are left out. Rows that a side effect inserts by SQL of its own are
/// left out too.
///
/// # Errors
///
/// As [`process_batch`](crate::process_batch).
///
/// # Cancel safety
///
/// Safe: the turn is rolled back in any case.
///
/// # Examples
///
/// As [`rehearse_reducer`], with a processor.
pub async fn rehearse<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    max_events: NonZeroU32,
) -> Result<Option<Rehearsal<P::State>>>
where
    B: Backend,
    P: Processor<B>,
{
    let Some(seen) = run(pool, to, processor, max_events, false).await? else { return Ok(None) };
    Ok(Some(seen.rehearsal.map_state(|state| Arc::into_inner(state).map_or(Next::Stay, Next::To))))
}

/// Runs the next turn of a recipient with a [`Reducer`], returns its effects, and rolls it back, as [`rehearse`].
///
/// # Errors
///
/// As [`reduce_batch`](crate::reduce_batch).
///
/// # Cancel safety
///
/// Safe: the turn is rolled back in any case.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{BoxError, Event, Next, Outcome, Recipient, Reducer, testing};
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
/// eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// for _ in 0..2 {
///     let rehearsal = testing::rehearse_reducer(&pool, &airport, &Counter, 10.try_into()?).await?.ok_or("a turn")?;
///     assert_eq!((rehearsal.next, rehearsal.consumed.len()), (Next::To(1), 1));
/// }
/// # Ok(()) }
/// ```
pub async fn rehearse_reducer<B, R, C>(
    pool: &Pool<B>,
    to: &Recipient,
    reducer: &R,
    max_events: NonZeroU32,
) -> Result<Option<Rehearsal<R::State>>>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    let reducing = ReducerAsProcessor::new(reducer);
    let seen = run(pool, to, &reducing, max_events, false).await.map_err(crate::eventbox::with_state_error)?;
    let Some(seen) = seen else { return Ok(None) };
    let mut undecodable = None;
    let rehearsal = seen.rehearsal.map_state(|kept| match kept.bytes.as_deref().map(C::decode) {
        None => Next::Gone,
        Some(Ok(state)) => Next::To(state),
        Some(Err(source)) => {
            undecodable = Some(StateError::Decode { recipient: to.clone(), source });
            Next::Stay
        }
    });
    match undecodable {
        None => Ok(Some(rehearsal)),
        Some(source) => Err(Error::State { attempt: format!("rehearse a turn of {to}"), source }),
    }
}

impl<S> Rehearsal<S> {
    fn map_state<T>(self, map: impl FnOnce(S) -> Next<T>) -> Rehearsal<T> {
        let next = match self.next {
            Next::To(state) => map(state),
            Next::Stay => Next::Stay,
            Next::Gone => Next::Gone,
        };
        Rehearsal {
            next,
            consumed: self.consumed,
            garbage: self.garbage,
            emitted: self.emitted,
            published: self.published,
            hooks: self.hooks,
        }
    }
}
