//! Postgres: the twins of `store/inbox`.

pub(in crate::store::postgres) mod depth;
pub(in crate::store::postgres) mod event;
pub(in crate::store::postgres) mod item;
pub(in crate::store::postgres) mod names;
pub(in crate::store::postgres) mod timer;
pub(in crate::store::postgres) mod tombstone;
