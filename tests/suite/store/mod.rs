//! The statements themselves.

#[cfg(feature = "postgres")]
mod access;
#[cfg(feature = "postgres")]
mod flat;
mod plans;
mod pruning;
mod statements;
mod timing;
#[cfg(feature = "runtime")]
mod walks;
