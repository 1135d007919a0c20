//! The boxes: events that wait, timers, tombstones of sets, and what became of an event.

pub(in crate::store) mod event;
pub(in crate::store) mod item;
pub(in crate::store) mod status;
pub(in crate::store) mod timer;
pub(in crate::store) mod tombstone;
