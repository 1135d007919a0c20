//! Working on recipients that were found, in rounds and turns.

mod activity;
pub(super) mod at_work;
pub(super) mod idle;
pub(super) mod lane;
mod pace;
pub(super) mod paused;
pub(super) mod rates;
pub(super) mod ready;
pub(super) mod registry;
mod releasing;
pub(super) mod scheduler;
mod starting;
pub(super) mod state_cache;
pub(super) mod tasks;
pub(super) mod window;
