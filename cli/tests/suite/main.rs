//! Tests of the command line, as real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bench;
mod demo;
mod ingress;
mod operate;
mod support;
