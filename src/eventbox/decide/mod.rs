//! The code that a service writes: how the events of a recipient change its state.
//!
//! A [`Processor`](processor::Processor) keeps its state itself and returns transitions. A
//! [`Reducer`](reducer::Reducer) leaves the state to the library; `reducer_adapter` makes a processor of it.
//! [`RoundHooks`](hooks::RoundHooks) wrap the transactions of either.

pub(super) mod erased;
pub(super) mod hooks;
pub(super) mod processor;
pub(super) mod reducer;
pub(super) mod reducer_adapter;
pub(super) mod state;
pub(super) mod transition;
