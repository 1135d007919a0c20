//! The registered processor or reducer of each kind.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Pool;

use super::ready::Lane;
use crate::error::Result;
use crate::eventbox::{ErasedReducer, Keeper, KeptState, Processor, Turn, TurnOptions, process_batch_keeping};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

/// State that a processor keeps between two turns of a recipient, with its type erased.
#[derive(Debug)]
pub(crate) struct ErasedState {
    /// Bytes of the state, as the processor says.
    pub(super) bytes: usize,
    pub(super) kept: Box<dyn Any + Send + Sync>,
}

impl ErasedState {
    fn of<S: Send + Sync + 'static>(kept: KeptState<S>) -> Self {
        ErasedState { bytes: kept.bytes(), kept: Box::new(kept) }
    }

    /// Returns the state with its type. A state of another type is dropped, so that the turn loads.
    fn with_type<S: Send + Sync + 'static>(self) -> Option<KeptState<S>> {
        self.kept.downcast::<KeptState<S>>().ok().map(|kept| *kept)
    }
}

/// A processor with its types erased.
pub(crate) trait ErasedProcessor<B: Backend>: Send + Sync {
    /// Takes a recipient through a turn, with the state that its last turn kept. Returns the state to keep, too.
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
        kept: Option<ErasedState>,
    ) -> BoxFuture<'a, (Result<Turn>, Option<ErasedState>)>;
}

impl<B: Backend, P: Processor<B> + 'static> ErasedProcessor<B> for P {
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
        kept: Option<ErasedState>,
    ) -> BoxFuture<'a, (Result<Turn>, Option<ErasedState>)> {
        Box::pin(async move {
            let mut keeper = Keeper::on(kept.and_then(ErasedState::with_type::<P::State>));
            let done = process_batch_keeping(pool, to, self, options, &mut keeper).await;
            (done, keeper.into_kept().map(ErasedState::of))
        })
    }
}

/// The handler of a kind.
pub(crate) enum Handler<B: Backend> {
    /// Takes one recipient at a time, in turns.
    Processor(Arc<dyn ErasedProcessor<B>>),
    /// Takes many recipients at a time, in rounds.
    Reducer(Arc<dyn ErasedReducer<B>>),
}

/// Handlers by kind.
pub(crate) type Handlers<B> = HashMap<Arc<str>, Handler<B>>;

impl<B: Backend> Handler<B> {
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Handler::Processor(_) => Lane::Turns,
            Handler::Reducer(_) => Lane::Rounds,
        }
    }

    /// Takes a recipient through a turn. Returns the state that a processor keeps for the next turn, too.
    pub(super) async fn turn(
        &self,
        pool: &Pool<B>,
        to: &Recipient,
        options: &TurnOptions,
        kept: Option<ErasedState>,
    ) -> (Result<Turn>, Option<ErasedState>) {
        match self {
            Handler::Processor(processor) => processor.turn(pool, to, options, kept).await,
            Handler::Reducer(reducer) => (reducer.turn(pool, to, options).await, None),
        }
    }
}
