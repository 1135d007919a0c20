//! Working on recipients that were found: rounds of reducers, turns of processors.

pub(super) mod at_work;
pub(super) mod idle;
pub(super) mod paused;
pub(super) mod ready;
pub(super) mod registry;
pub(super) mod scheduler;
pub(super) mod state_cache;
pub(super) mod tasks;
