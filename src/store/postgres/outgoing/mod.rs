//! Postgres: the twins of `store/outgoing`.

pub(in crate::store::postgres) mod dead_letter;
pub(in crate::store::postgres) mod marked;
pub(in crate::store::postgres) mod outbox;
