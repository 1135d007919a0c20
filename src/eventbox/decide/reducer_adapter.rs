//! Adapts a reducer to a processor, so that both use the same turn.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlx::Pool;

use super::processor::{EVersion, Processor};
use super::reducer::{Next, Outcome, Reducer};
use super::state::{Json, StateCodec};
use super::transition::{Mutation, Transition, panic_text};
use crate::error::{BoxError, Error, Result, StateError};
use crate::eventbox::emit::check_all;
use crate::eventbox::event::Event;
use crate::eventbox::turn::options::TurnOptions;
use crate::eventbox::turn::{Turn, process_batch_with};
use crate::recipient::Recipient;
use crate::store::{Backend, in_time};

/// Takes the oldest events of a recipient through a reducer in one turn.
///
/// Works exactly as [`process_batch`](crate::process_batch), with the state in the library's own table. The state is
/// saved with the turn, so it needs no version and no statement that checks one.
///
/// # What comes back
///
/// As from [`process_batch`](crate::process_batch).
///
/// # Errors
///
/// * Those of [`process_batch`](crate::process_batch).
/// * [`Error::State`], before the transaction, when the stored state cannot be decoded, or the new state cannot be
///   encoded or is over [`max_state_bytes`](Reducer::max_state_bytes).
/// * [`Error::Processor`] when the reducer failed or panicked.
///
/// After an error nothing was changed.
///
/// # Cancel safety
///
/// As [`process_batch`](crate::process_batch).
///
/// # Examples
///
/// See [`Reducer`].
pub async fn reduce_batch<B, R, C>(pool: &Pool<B>, to: &Recipient, reducer: &R, max_events: NonZeroU32) -> Result<Turn>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    reduce_batch_with(pool, to, reducer, &TurnOptions::new(max_events)).await
}

/// [`reduce_batch`] with other bounds than the defaults.
///
/// # Errors
///
/// As [`reduce_batch`].
///
/// # Cancel safety
///
/// As [`reduce_batch`].
pub async fn reduce_batch_with<B, R, C>(
    pool: &Pool<B>,
    to: &Recipient,
    reducer: &R,
    options: &TurnOptions,
) -> Result<Turn>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    process_batch_with(pool, to, &ReducerAsProcessor::new(reducer), options).await.map_err(with_state_error)
}

/// Turns a [`StateError`] of the adapter into [`Error::State`]; other errors of the user's code stay
/// [`Error::Processor`].
pub(crate) fn with_state_error(error: Error) -> Error {
    match error {
        Error::Processor { attempt, source } => match source.downcast::<StateError>() {
            Ok(source) => Error::State { attempt, source: *source },
            Err(source) => Error::Processor { attempt, source },
        },
        other => other,
    }
}

/// Adapts a [`Reducer`] to a [`Processor`], on either engine.
pub struct ReducerAsProcessor<'a, R, C = Json> {
    reducer: &'a R,
    codec: PhantomData<fn() -> C>,
}

impl<'a, R, C> ReducerAsProcessor<'a, R, C>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    /// Wraps the reducer.
    pub fn new(reducer: &'a R) -> Self {
        ReducerAsProcessor { reducer, codec: PhantomData }
    }

    fn decode(to: &Recipient, bytes: Option<&[u8]>) -> Result<R::State, BoxError> {
        let Some(bytes) = bytes else { return Ok(R::State::default()) };
        caught(|| C::decode(bytes)).map_err(|source| StateError::Decode { recipient: to.clone(), source }.into())
    }

    fn encode(&self, to: &Recipient, state: &R::State) -> Result<Vec<u8>, BoxError> {
        let recipient = to.clone();
        let bytes = match caught(|| C::encode(state)) {
            Ok(bytes) => bytes,
            Err(source) => return Err(StateError::Encode { recipient, source }.into()),
        };
        let limit = self.reducer.max_state_bytes();
        if bytes.len() > limit {
            return Err(StateError::TooLarge { recipient, bytes: bytes.len(), limit }.into());
        }
        Ok(bytes)
    }

    /// Refuses a new state that the next turn could not load.
    fn prove(to: &Recipient, bytes: &[u8]) -> Result<(), BoxError> {
        caught(|| C::read_back(bytes))
            .map_err(|source| StateError::NotReadBack { recipient: to.clone(), source }.into())
    }

    /// Returns the bytes to store; [`Next::Stay`] when the same bytes are stored already.
    fn target(&self, to: &Recipient, next: &Next<R::State>, stored: Option<&[u8]>) -> Result<Next<Vec<u8>>, BoxError> {
        Ok(match next {
            Next::Stay => Next::Stay,
            Next::Gone if stored.is_none() => Next::Stay,
            Next::Gone => Next::Gone,
            Next::To(state) => {
                let bytes = self.encode(to, state)?;
                if Some(&*bytes) == stored {
                    return Ok(Next::Stay);
                }
                Self::prove(to, &bytes)?;
                Next::To(bytes)
            }
        })
    }

    /// Returns the reducer's decision about a batch, as a round commits it. The errors are those of a turn.
    #[cfg(feature = "runtime")]
    pub(crate) fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<(Next<Vec<u8>>, Outcome<()>), BoxError> {
        let state = Self::decode(to, stored)?;
        let outcome = caught(|| self.reducer.reduce(to, events, state))?;
        check_all(&outcome.emitted)?;
        Ok((self.target(to, &outcome.next, stored)?, outcome.without_state()))
    }
}

impl<R, C> fmt::Debug for ReducerAsProcessor<'_, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReducerAsProcessor")
    }
}

/// A stored state. Each decision decodes it, because the reducer takes its state by value.
pub struct Kept {
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Shows the size of the state instead of the state: payloads do not belong into logs.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("bytes", &self.bytes.as_ref().map(Vec::len)).finish()
    }
}

impl<B, R, C> Processor<B> for ReducerAsProcessor<'_, R, C>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    type State = Kept;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(Self::State, EVersion), BoxError> {
        // A statement of the library in the place of the user's: it has the library's bound, not the turn's.
        let read = in_time::<B, _>(B::read_state(conn, to.shard().into(), to.as_str()));
        let row = read.await.map_err(|fault| fault.0)?;
        Ok((Kept { bytes: row.and_then(|row| row.state) }, CONSTANT))
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: &Self::State,
    ) -> Result<Mutation<B, Self::State>, BoxError> {
        let state = Self::decode(to, stored.bytes.as_deref())?;
        let outcome = caught(|| self.reducer.reduce(to, events, state))?;
        let target = self.target(to, &outcome.next, stored.bytes.as_deref())?;
        let kept = |bytes| Kept { bytes };
        let target = match target {
            Next::Stay => None,
            Next::To(bytes) => Some(kept(Some(bytes))),
            Next::Gone => Some(kept(None)),
        };
        mutation(target, outcome)
    }

    async fn fetch_eversion(&self, _tx: &mut B::Connection, _to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(CONSTANT)
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &Self::State,
        _eversion: EVersion,
    ) -> Result<(), BoxError> {
        let saved = in_time::<B, _>(B::save_state(tx, to.shard().into(), to.as_str(), state.bytes.as_deref())).await;
        match saved.map_err(|fault| fault.0)? {
            true => Ok(()),
            false => Err(Error::contention(format!("save the state of {to}")).into()),
        }
    }
}

/// Constant version: only turns write the state, so the turn alone protects it.
const CONSTANT: EVersion = EVersion(0);

fn mutation<B: Backend, T, S>(target: Option<T>, outcome: Outcome<S>) -> Result<Mutation<B, T>, BoxError> {
    let Outcome { consumed, garbage, emitted, post_process, .. } = outcome;
    let transition = target.map_or_else(Transition::stay, Transition::to).consuming(&consumed);
    let transition = transition.publishing(outcome.published);
    check_all(&emitted)?;
    let transition = transition.emitting(emitted);
    // A transition has one hook.
    let hooks = post_process.into_iter().map(|hook| Transition::stay().post_process(hook));
    Ok(hooks.fold(Mutation::from(transition), Mutation::then).garbage(&garbage))
}

/// Makes a panic of the user's code an error, so that it ends this turn instead of the worker.
fn caught<T>(run: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    // Values that the panic left half changed are not used again: the state is dropped, and the next attempt reads
    // everything again.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panic_text(&*panic).into()))
}
