//! What peers do with eventboxes: emits, turns of streams, and events of closed streams.

pub(super) mod door;
pub(super) mod emits;
pub(super) mod sweep;
pub(super) mod turns;
pub(super) mod undelivered;
