//! The registered processor or reducer of each kind, and its round hooks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::Pool;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use crate::error::{BoxError, Result};
use crate::eventbox::{
    ErasedHooks, ErasedProcessor, ErasedReducer, Keeper, KeptState, Round, RoundHooks, RoundResult, Turn, TurnOptions,
    Work, process_batch_keeping,
};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

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
        kept: Option<KeptState>,
        hooks: Option<&dyn ErasedHooks<B>>,
    ) -> (Result<Turn>, Option<KeptState>) {
        match self {
            Handler::Processor(processor, _) => {
                let mut keeper = Keeper::on(kept);
                let work = Work { pool, to, processor: &**processor, hooks };
                let done = process_batch_keeping(work, options, &mut keeper).await;
                (done, keeper.into_kept())
            }
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
