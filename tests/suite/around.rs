//! Tests of every promised behaviour, on every engine: what stands around the inbox, and the rules of the repository.
//! `main.rs` has the rest: two halves are built beside each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod admin;
mod architecture;
mod dashboard;
mod emitter;
mod examples;
#[allow(dead_code, clippy::print_stdout, clippy::print_stderr, reason = "the command of this name shares the modules")]
mod faults;
mod ingress;
mod ops;
mod peer;
mod prometheus;
mod proto;
mod shard_api;
mod source;
#[allow(dead_code, unused_imports, reason = "each half of the suite uses a part")]
mod support;
