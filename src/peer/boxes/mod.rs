//! What peers do with eventboxes: emits, turns of streams, their last events at a stop, and
//! events of closed streams.

pub(super) mod door;
pub(super) mod drain;
pub(super) mod emits;
pub(super) mod sweep;
pub(super) mod turns;
pub(super) mod undelivered;
