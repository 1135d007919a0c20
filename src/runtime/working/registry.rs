//! The registered processor or reducer of each kind.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Pool;

use super::ready::Lane;
use crate::error::Result;
use crate::eventbox::{ErasedReducer, Processor, Turn, TurnOptions, process_batch_with};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

/// A processor with its types erased.
pub(crate) trait ErasedProcessor<B: Backend>: Send + Sync {
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>>;
}

impl<B: Backend, P: Processor<B>> ErasedProcessor<B> for P {
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>> {
        Box::pin(process_batch_with(pool, to, self, options))
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

    pub(super) async fn turn(&self, pool: &Pool<B>, to: &Recipient, options: &TurnOptions) -> Result<Turn> {
        match self {
            Handler::Processor(processor) => processor.turn(pool, to, options).await,
            Handler::Reducer(reducer) => reducer.turn(pool, to, options).await,
        }
    }
}
