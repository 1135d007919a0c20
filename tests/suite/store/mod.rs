//! The statements themselves.

mod plans;
mod statements;
