//! SQLite: the twins of `store/inbox`.

pub(in crate::store::sqlite) mod depth;
pub(in crate::store::sqlite) mod event;
pub(in crate::store::sqlite) mod item;
pub(in crate::store::sqlite) mod timer;
pub(in crate::store::sqlite) mod tombstone;
