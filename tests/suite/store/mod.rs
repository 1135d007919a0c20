//! The SQL statements: the engines accept them, and their plans use the primary keys.

#[cfg(feature = "postgres")]
mod access;
#[cfg(feature = "postgres")]
mod citus;
#[cfg(feature = "postgres")]
mod flat;
mod plans;
mod pruning;
#[cfg(feature = "postgres")]
mod roles;
mod statements;
mod timing;
#[cfg(feature = "postgres")]
mod waits;
#[cfg(all(feature = "postgres", feature = "sqlite"))]
#[cfg(feature = "runtime")]
mod walks;
