//! The mistakes that a reducer can make, found without a database.

use super::conformance::content_of;
use super::conformance::message_of;
use super::resting::MAX_IDLE_TURNS;
use crate::clock::new_id;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::{Event, EventId, Next, Outcome, Reducer, StateCodec};
use crate::recipient::Recipient;

/// The ways to split the events: the sizes of the batches, repeated until the end. The first is one batch of all
/// events.
const SPLITS: [&[usize]; 5] = [&[usize::MAX], &[1], &[2], &[3], &[1, 5, 2]];

/// A mistake of a reducer. Its text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReducerViolation {
    /// A state that cannot be stored, or could not be read again.
    #[error("a state is refused: {problem}")]
    Refused {
        /// Error of the codec or of the limit, with the path to the field.
        problem: String,
    },
    /// A state that is read back and differs from the state that was written.
    #[error("a state comes back as another one: something of it is not stored, or is read as something else")]
    StateIsLost,
    /// Two different decisions on the same state and events.
    #[error("reduce is not repeatable: a second call with the same state and events gave other {what}")]
    NotRepeatable {
        /// Part of the decision that differed.
        what: &'static str,
    },
    /// Another final state from other batches of the same events.
    ///
    /// Contention, limits and the search for a bad event split events in other ways.
    #[error(
        "batches of {sizes:?} events end in another state than one batch: \
         decide from the events and not from their batch"
    )]
    DependsOnBatches {
        /// Sizes of the batches, repeated until the end.
        sizes: &'static [usize],
    },
    /// A reducer that still changes or sends something after [`MAX_IDLE_TURNS`] turns that removed no event.
    #[error("it never rests: after {turns} turns that removed no event it still changes or sends something")]
    NeverRests {
        /// Number of turns.
        turns: usize,
    },
}

/// Finds mistakes of a [`Reducer`]: gives it the events in batches of several sizes.
///
/// Each batch comes with the state as it would be read back from the database.
///
/// The check detects:
///
/// * a state that cannot be stored, such as one with NaN or with too deep nesting,
/// * a state that is read back as another state, for example because a field is skipped,
/// * a decision that differs in a second call,
/// * a state that depends on the split of the events into batches,
/// * a reducer that never rests.
///
/// The check needs no database. Events that the reducer emits to its own recipient are not given to it.
///
/// # What comes back
///
/// The first mistake of each way to split, each kind of mistake once. The list is empty when the check found none.
///
/// # Units and limits
///
/// Every decision is made twice, and each state is written once and read twice.
///
/// # Errors
///
/// [`Error::Processor`] with the reducer's own error, because a failure of the reducer is not a violation. A panic of
/// the reducer is a panic of the test.
///
/// # Examples
///
/// ```
/// use eventbox::testing::check_reducer;
/// use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
///
/// struct Counter;
/// impl Reducer for Counter {
///     type State = u64;
///     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
///         Ok(Outcome::to(count + events.len() as u64).consuming(events))
///     }
/// }
///
/// let events: Vec<Event> = (0..20).map(|_| Event::new("departed")).collect();
/// assert_eq!(check_reducer(&Counter, &Recipient::new("airport", "JFK")?, &events)?, []);
/// # Ok::<(), BoxError>(())
/// ```
pub fn check_reducer<R, C>(reducer: &R, to: &Recipient, events: &[Event]) -> Result<Vec<ReducerViolation>>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
    R::State: PartialEq,
{
    let events: Vec<Event> = events.iter().map(|event| event.clone().with_id(new_id())).collect();
    let mut violations: Vec<ReducerViolation> = Vec::new();
    let mut whole = None;
    for sizes in SPLITS {
        let violation = match end_of(reducer, to, &events, sizes)? {
            Err(violation) => violation,
            Ok(end) if whole.as_ref().is_none_or(|whole| *whole == end) => {
                whole.get_or_insert(end);
                continue;
            }
            Ok(_) => ReducerViolation::DependsOnBatches { sizes },
        };
        // One mistake of each kind is enough.
        if !violations.iter().any(|known| std::mem::discriminant(known) == std::mem::discriminant(&violation)) {
            violations.push(violation);
        }
    }
    Ok(violations)
}

/// Returns the state after all events, in batches of these sizes, or the first mistake before it.
fn end_of<R, C>(
    reducer: &R,
    to: &Recipient,
    events: &[Event],
    sizes: &[usize],
) -> Result<Result<R::State, ReducerViolation>>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
    R::State: PartialEq,
{
    let mut sizes = sizes.iter().copied().cycle();
    let mut left = events.to_vec();
    let (mut stored, mut from, mut idle) = (None, 0, 0);
    while let Some(rest) = left.get(from..).filter(|rest| !rest.is_empty()) {
        let batch = rest.get(..sizes.next().unwrap_or(usize::MAX)).unwrap_or(rest).to_vec();
        let turn = match decide(reducer, to, &batch, stored.as_deref())? {
            Ok(turn) => turn,
            Err(violation) => return Ok(Err(violation)),
        };
        if turn.state == stored && !turn.acts {
            // Events that the reducer leaves must not hide the events behind them.
            from += batch.len();
            continue;
        }
        let before = left.len();
        left.retain(|event| !turn.removed.contains(&event.id()));
        (stored, from) = (turn.state, 0);
        idle = if left.len() < before { 0 } else { idle + 1 };
        if idle >= MAX_IDLE_TURNS {
            return Ok(Err(ReducerViolation::NeverRests { turns: idle }));
        }
    }
    Ok(decode::<R, C>(stored.as_deref()))
}

/// The effects of a turn.
struct Turn {
    /// State as it would be stored.
    state: Option<Vec<u8>>,
    removed: Vec<EventId>,
    /// Whether it does anything but change the state.
    acts: bool,
}

fn decide<R, C>(
    reducer: &R,
    to: &Recipient,
    batch: &[Event],
    stored: Option<&[u8]>,
) -> Result<Result<Turn, ReducerViolation>>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
    R::State: PartialEq,
{
    let failed = |source| Error::Processor { attempt: format!("reduce events of {to}"), source };
    let (state, same) = match (decode::<R, C>(stored), decode::<R, C>(stored)) {
        (Ok(state), Ok(same)) => (state, same),
        (Err(violation), _) | (_, Err(violation)) => return Ok(Err(violation)),
    };
    let outcome = reducer.reduce(to, batch, state).map_err(failed)?;
    let again = reducer.reduce(to, batch, same).map_err(failed)?;
    let state = match &outcome.next {
        Next::Stay => stored.map(<[u8]>::to_vec),
        Next::Gone => None,
        Next::To(state) => match written::<R, C>(reducer, state) {
            Ok(bytes) => Some(bytes),
            Err(violation) => return Ok(Err(violation)),
        },
    };
    // The refusals come first, because a state with NaN differs from itself.
    if let Some(what) = difference(&outcome, &again) {
        return Ok(Err(ReducerViolation::NotRepeatable { what }));
    }
    let acts = !outcome.is_nothing();
    let removed = outcome.consumed.into_iter().chain(outcome.garbage).collect();
    Ok(Ok(Turn { state, removed, acts }))
}

fn decode<R, C>(stored: Option<&[u8]>) -> Result<R::State, ReducerViolation>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    stored.map_or_else(|| Ok(R::State::default()), |bytes| C::decode(bytes).map_err(|error| refused(&error)))
}

fn refused(error: &BoxError) -> ReducerViolation {
    ReducerViolation::Refused { problem: error.to_string() }
}

/// Returns the state as it would be stored, if it is read back as it was.
fn written<R, C>(reducer: &R, state: &R::State) -> Result<Vec<u8>, ReducerViolation>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
    R::State: PartialEq,
{
    let bytes = C::encode(state).map_err(|error| refused(&error))?;
    let limit = reducer.max_state_bytes();
    if bytes.len() > limit {
        return Err(ReducerViolation::Refused {
            problem: format!("it has {} bytes, at most {limit} fit", bytes.len()),
        });
    }
    if C::decode(&bytes).map_err(|error| refused(&error))? != *state {
        return Err(ReducerViolation::StateIsLost);
    }
    C::read_back(&bytes).map_err(|error| refused(&error))?;
    Ok(bytes)
}

/// Returns the part that differs between two decisions.
fn difference<S: PartialEq>(first: &Outcome<S>, again: &Outcome<S>) -> Option<&'static str> {
    if first.next != again.next {
        return Some("states");
    }
    if (&first.consumed, &first.garbage) != (&again.consumed, &again.garbage) {
        return Some("events to remove");
    }
    if !first.emitted.iter().map(content_of).eq(again.emitted.iter().map(content_of)) {
        return Some("emitted events");
    }
    if !first.published.iter().map(message_of).eq(again.published.iter().map(message_of)) {
        return Some("published messages");
    }
    (first.post_process.len() != again.post_process.len()).then_some("hooks")
}
