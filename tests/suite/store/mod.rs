//! The statements themselves.

mod plans;
mod pruning;
mod statements;
mod timing;
