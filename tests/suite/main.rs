//! Tests of every promised behaviour, on every engine: the inbox, its store, and its runtime. `around.rs` has the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod database;
mod dsset;
mod eventbox;
mod migrating;
mod paths;
#[cfg(feature = "tls")]
mod postgres_tls;
mod runtime;
mod store;
#[allow(dead_code, unused_imports, reason = "each half of the suite uses a part")]
mod support;
mod testing;
