//! The registered processor or reducer of each kind, and its round hooks.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::Pool;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use crate::error::{BoxError, Result};
use crate::eventbox::{
    Begun, CodeLimits, ErasedHooks, ErasedReducer, Keeper, KeptState, Limits, Processor, ProcessorWay, Round,
    RoundHooks, RoundMember, RoundResult, Rounded, Turn, TurnOptions, Work, process_batch_keeping, round,
};
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
        hooks: Option<&'a dyn ErasedHooks<B>>,
    ) -> BoxFuture<'a, (Result<Turn>, Option<ErasedState>)>;

    /// Takes recipients through a round, with the states that their last turns kept.
    fn round<'a>(
        &'a self,
        pool: &'a Pool<B>,
        members: &'a [RoundMember],
        kept: Vec<Option<ErasedState>>,
        limits: (Limits, CodeLimits),
        before_commit: BoxFuture<'a, ()>,
        begun: Option<&'a mut Begun<'_, B>>,
    ) -> BoxFuture<'a, Result<Rounded<ErasedState>>>;
}

/// Holds a processor, for the tasks of its rounds.
pub(crate) struct TypedProcessor<P>(Arc<P>);

impl<P> TypedProcessor<P> {
    pub(crate) fn new(processor: P) -> Self {
        TypedProcessor(Arc::new(processor))
    }
}

impl<B: Backend, P: Processor<B> + 'static> ErasedProcessor<B> for TypedProcessor<P> {
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
        kept: Option<ErasedState>,
        hooks: Option<&'a dyn ErasedHooks<B>>,
    ) -> BoxFuture<'a, (Result<Turn>, Option<ErasedState>)> {
        Box::pin(async move {
            let mut keeper = Keeper::on(kept.and_then(ErasedState::with_type::<P::State>));
            let work = Work { pool, to, processor: &*self.0, hooks };
            let done = process_batch_keeping(work, options, &mut keeper).await;
            (done, keeper.into_kept().map(ErasedState::of))
        })
    }

    fn round<'a>(
        &'a self,
        pool: &'a Pool<B>,
        members: &'a [RoundMember],
        kept: Vec<Option<ErasedState>>,
        (limits, of_code): (Limits, CodeLimits),
        before_commit: BoxFuture<'a, ()>,
        begun: Option<&'a mut Begun<'_, B>>,
    ) -> BoxFuture<'a, Result<Rounded<ErasedState>>> {
        Box::pin(async move {
            let known = kept.into_iter().map(|kept| kept.and_then(ErasedState::with_type::<P::State>)).collect();
            let way = ProcessorWay::new(&self.0, of_code);
            let rounded = round(pool, members, known, &way, limits, before_commit, begun).await?;
            Ok(rounded.map_left(ErasedState::of))
        })
    }
}

/// The handler of a kind.
pub(crate) enum Handler<B: Backend> {
    /// Takes recipients from this lane.
    Processor(Arc<dyn ErasedProcessor<B>>, Lane),
    /// Takes recipients from this lane, in rounds.
    Reducer(Arc<dyn ErasedReducer<B>>, Lane),
}

/// Handlers by kind.
pub(crate) type Handlers<B> = HashMap<Arc<str>, Handler<B>>;

impl<B: Backend> Handler<B> {
    /// Gives the kind rounds of its own. Returns false when it has no rounds.
    pub(crate) fn separate(&mut self, own: Lane) -> bool {
        match self {
            Handler::Reducer(_, lane) => *lane = own,
            Handler::Processor(_, lane) => return *lane != Lane::Turns,
        }
        true
    }

    pub(crate) fn lane(&self) -> Lane {
        match self {
            Handler::Processor(_, lane) | Handler::Reducer(_, lane) => *lane,
        }
    }

    /// Takes a recipient through a turn. Returns the state that a processor keeps for the next turn, too.
    pub(super) async fn turn(
        &self,
        pool: &Pool<B>,
        to: &Recipient,
        options: &TurnOptions,
        kept: Option<ErasedState>,
        hooks: Option<&dyn ErasedHooks<B>>,
    ) -> (Result<Turn>, Option<ErasedState>) {
        match self {
            Handler::Processor(processor, _) => processor.turn(pool, to, options, kept, hooks).await,
            Handler::Reducer(reducer, _) => (reducer.turn(pool, to, options, hooks).await, None),
        }
    }
}

/// Round hooks by kind.
pub(crate) type Hooks<B> = BTreeMap<String, Box<dyn ErasedHooks<B>>>;

/// Holds the round hooks of a kind.
pub(crate) struct TypedHooks<H> {
    hooks: H,
    /// Ends the wait of a round that has not begun.
    stopping: CancellationToken,
}

impl<H> TypedHooks<H> {
    pub(crate) fn new(hooks: H, stopping: CancellationToken) -> Self {
        TypedHooks { hooks, stopping }
    }
}

impl<B: Backend, H: RoundHooks<B>> ErasedHooks<B> for TypedHooks<H> {
    fn begin<'a>(&'a self, round: &'a Round) -> BoxFuture<'a, Result<bool, BoxError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                begun = self.hooks.begin_round(round) => begun.map(|()| true),
                () = self.stopping.cancelled() => Ok(false),
            }
        })
    }

    fn finalize<'a>(&'a self, tx: &'a mut B::Connection, round: &'a Round) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(self.hooks.finalize(tx, round))
    }

    fn finish(&self, round: &Round, result: &RoundResult) {
        self.hooks.finish_round(round, result);
    }
}
