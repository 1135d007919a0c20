//! The outbox: messages that wait to be published, and those that cannot be.

pub(in crate::store) mod dead_letter;
pub(in crate::store) mod outbox;
