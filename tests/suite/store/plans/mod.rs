//! The plans of the hot statements, which must find their rows by the primary key, however many rows there are.

mod marked;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// 16 shards of 100 recipients with 20 events each, and one recipient with a long backlog.
const RECIPIENTS: usize = 100;
