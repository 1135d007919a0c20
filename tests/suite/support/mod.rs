//! The harness of the tests: a database for each test and engine, waits without sleeps, and ready-made processors.

mod cell;
pub(crate) mod chip;
pub(crate) mod cluster;
mod database;
mod engines;
pub(crate) mod layout;
pub(crate) mod log;
mod processors;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod recorded;
pub(crate) mod running;
pub(crate) mod source;

pub(crate) use cell::{CellEngine, Cells, create_cells, effects, failing, noting};
pub(crate) use database::{LOCK_WAITS, TestDb, TestEngine, with_database};
pub(crate) use engines::{SOON, eventually, on_every_engine};
pub(crate) use processors::{Decider, drain};
