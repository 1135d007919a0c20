//! Tests of every promised behaviour, on every engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod admin;
mod architecture;
mod dashboard;
mod database;
mod dsset;
mod emitter;
mod eventbox;
mod examples;
mod ingress;
mod migrating;
mod ops;
mod paths;
mod peer;
#[cfg(feature = "tls")]
mod postgres_tls;
mod prometheus;
mod proto;
mod runtime;
mod shard_api;
mod store;
mod support;
mod testing;
