//! Postgres: the twins of `store/operate`.

pub(in crate::store::postgres) mod backlog;
pub(in crate::store::postgres) mod blocked;
pub(crate) mod decoding;
pub(in crate::store::postgres) mod diagnosis;
pub(in crate::store::postgres) mod fate;
pub(in crate::store::postgres) mod journal;
pub(in crate::store::postgres) mod old_transaction;
pub(in crate::store::postgres) mod quarantine;
