//! The outbox: messages that wait for their delivery, and dead letters.

pub(in crate::store) mod dead_letter;
pub(in crate::store) mod marked;
pub(in crate::store) mod outbox;
