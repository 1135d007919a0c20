//! The page of the operator in a real Chromium: `cargo xtask browser`.
//!
//! Each test has a database, a runtime that works on it, the dashboard, and a Chromium of its own. A test fails when
//! the console of the browser has an error. The pictures of all pages are in `target/browser`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod actions;
mod browser;
mod driver;
mod guarding;
mod keyboard;
mod live;
mod looks;
mod picture;
mod plants;
mod stage;
mod story;
#[allow(dead_code, unused_imports, unused_macros, reason = "the suite uses more of it")]
#[path = "../suite/support/mod.rs"]
mod support;
