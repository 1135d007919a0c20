//! The registered processor or reducer of each kind.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Pool;

use super::ready::Lane;
use crate::error::Result;
use crate::eventbox::{Processor, Rounds, Turn, TurnOptions, process_batch_with};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

/// A processor without its types.
pub(crate) trait Turns<B: Backend>: Send + Sync {
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>>;
}

impl<B: Backend, P: Processor<B>> Turns<B> for P {
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
pub(crate) enum Kind<B: Backend> {
    /// Takes one recipient at a time, in turns.
    Processor(Arc<dyn Turns<B>>),
    /// Takes many recipients at a time, in rounds.
    Reducer(Arc<dyn Rounds<B>>),
}

/// Handlers by kind.
pub(crate) type Kinds<B> = HashMap<Arc<str>, Kind<B>>;

impl<B: Backend> Kind<B> {
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Kind::Processor(_) => Lane::Turns,
            Kind::Reducer(_) => Lane::Rounds,
        }
    }

    pub(super) async fn turn(&self, pool: &Pool<B>, to: &Recipient, options: &TurnOptions) -> Result<Turn> {
        match self {
            Kind::Processor(processor) => processor.turn(pool, to, options).await,
            Kind::Reducer(reducer) => reducer.turn(pool, to, options).await,
        }
    }
}
