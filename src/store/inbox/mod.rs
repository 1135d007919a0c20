//! The boxes: events, timers, remembered names, and the status of an event.

pub(in crate::store) mod depth;
pub(in crate::store) mod event;
pub(in crate::store) mod item;
pub(in crate::store) mod status;
pub(in crate::store) mod timer;
pub(in crate::store) mod tombstone;
