//! Support code that these tests share with the library's suite.
#![allow(dead_code, reason = "the suite of the library uses more of it")]

#[path = "../../../tests/suite/support/chip.rs"]
pub(crate) mod chip;
#[path = "../../../tests/suite/support/database.rs"]
mod database;
#[path = "../../../tests/suite/support/engines.rs"]
mod engines;
#[path = "../../../tests/suite/support/layout.rs"]
pub(crate) mod layout;

pub(crate) use database::{TestDb, TestEngine, with_database};
pub(crate) use engines::{SOON, eventually, on_every_engine};
