//! A processor with its types erased, so that the code of turns and rounds is compiled once for an engine, and not once
//! more for each processor of a program.

#![cfg_attr(
    not(feature = "runtime"),
    allow(dead_code, reason = "only a runtime has rounds, and their methods for many")
)]

use std::any::Any;
use std::fmt;

use super::processor::{EVersion, Processor};
use super::transition::Mutation;
use crate::error::BoxError;
use crate::eventbox::event::Event;
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

/// State of a recipient with its type erased.
pub(crate) struct AnyState(Box<dyn Any + Send + Sync>);

impl AnyState {
    pub(crate) fn new<S: Send + Sync + 'static>(state: S) -> Self {
        AnyState(Box::new(state))
    }

    /// Returns the state with its type. The error says that it belongs to another processor.
    pub(crate) fn of<S: 'static>(&self) -> Result<&S, BoxError> {
        self.0.downcast_ref().ok_or_else(|| "this state belongs to another processor".into())
    }
}

/// Shows nothing of the state: payloads do not belong into logs.
impl fmt::Debug for AnyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyState")
    }
}

/// A [`Processor`] with its types erased. Its methods are those of the trait.
pub(crate) trait ErasedProcessor<B: Backend>: Send + Sync {
    fn runs_without_events(&self) -> bool;

    fn kept_bytes(&self, state: &AnyState) -> Option<usize>;

    fn load_state<'a>(
        &'a self,
        conn: &'a mut B::Connection,
        to: &'a Recipient,
    ) -> BoxFuture<'a, Result<(AnyState, EVersion), BoxError>>;

    fn prepare_mutation<'a>(
        &'a self,
        to: &'a Recipient,
        events: &'a [Event],
        state: &'a AnyState,
    ) -> BoxFuture<'a, Result<Mutation<B, AnyState>, BoxError>>;

    fn fetch_eversion<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        to: &'a Recipient,
    ) -> BoxFuture<'a, Result<EVersion, BoxError>>;

    fn save_state<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        to: &'a Recipient,
        state: &'a AnyState,
        eversion: EVersion,
    ) -> BoxFuture<'a, Result<(), BoxError>>;

    #[allow(clippy::type_complexity, reason = "what load_state returns, many times")]
    fn load_states<'a>(
        &'a self,
        conn: &'a mut B::Connection,
        of: &'a [Recipient],
    ) -> BoxFuture<'a, Result<Option<Vec<(AnyState, EVersion)>>, BoxError>>;

    fn fetch_eversions<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        of: &'a [Recipient],
    ) -> BoxFuture<'a, Result<Option<Vec<EVersion>>, BoxError>>;

    fn save_states<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        states: &'a [(&'a Recipient, &'a AnyState, EVersion)],
    ) -> BoxFuture<'a, Result<bool, BoxError>>;
}

impl<B: Backend, P: Processor<B>> ErasedProcessor<B> for P {
    fn runs_without_events(&self) -> bool {
        Processor::runs_without_events(self)
    }

    fn kept_bytes(&self, state: &AnyState) -> Option<usize> {
        state.of().ok().and_then(|state| Processor::kept_bytes(self, state))
    }

    fn load_state<'a>(
        &'a self,
        conn: &'a mut B::Connection,
        to: &'a Recipient,
    ) -> BoxFuture<'a, Result<(AnyState, EVersion), BoxError>> {
        Box::pin(async move {
            let (state, eversion) = Processor::load_state(self, conn, to).await?;
            Ok((AnyState::new(state), eversion))
        })
    }

    fn prepare_mutation<'a>(
        &'a self,
        to: &'a Recipient,
        events: &'a [Event],
        state: &'a AnyState,
    ) -> BoxFuture<'a, Result<Mutation<B, AnyState>, BoxError>> {
        Box::pin(async move {
            let mutation = Processor::prepare_mutation(self, to, events, state.of()?).await?;
            Ok(mutation.map_state(AnyState::new))
        })
    }

    fn fetch_eversion<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        to: &'a Recipient,
    ) -> BoxFuture<'a, Result<EVersion, BoxError>> {
        Box::pin(Processor::fetch_eversion(self, tx, to))
    }

    fn save_state<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        to: &'a Recipient,
        state: &'a AnyState,
        eversion: EVersion,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move { Processor::save_state(self, tx, to, state.of()?, eversion).await })
    }

    fn load_states<'a>(
        &'a self,
        conn: &'a mut B::Connection,
        of: &'a [Recipient],
    ) -> BoxFuture<'a, Result<Option<Vec<(AnyState, EVersion)>>, BoxError>> {
        Box::pin(async move {
            let states = Processor::load_states(self, conn, of).await?;
            let erased = |(state, eversion)| (AnyState::new(state), eversion);
            Ok(states.map(|states| states.into_iter().map(erased).collect()))
        })
    }

    fn fetch_eversions<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        of: &'a [Recipient],
    ) -> BoxFuture<'a, Result<Option<Vec<EVersion>>, BoxError>> {
        Box::pin(Processor::fetch_eversions(self, tx, of))
    }

    fn save_states<'a>(
        &'a self,
        tx: &'a mut B::Connection,
        states: &'a [(&'a Recipient, &'a AnyState, EVersion)],
    ) -> BoxFuture<'a, Result<bool, BoxError>> {
        Box::pin(async move {
            let typed = |(to, state, eversion): &(&'a Recipient, &'a AnyState, EVersion)| {
                Ok::<_, BoxError>((*to, state.of::<P::State>()?, *eversion))
            };
            let states: Vec<_> = states.iter().map(typed).collect::<Result<_, _>>()?;
            Processor::save_states(self, tx, &states).await
        })
    }
}
