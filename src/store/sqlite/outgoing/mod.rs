//! SQLite: the twins of `store/outgoing`.

pub(in crate::store::sqlite) mod dead_letter;
pub(in crate::store::sqlite) mod marked;
pub(in crate::store::sqlite) mod outbox;
