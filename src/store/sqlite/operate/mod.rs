//! SQLite: the twins of `store/operate`.

pub(in crate::store::sqlite) mod backlog;
pub(in crate::store::sqlite) mod blocked;
pub(in crate::store::sqlite) mod diagnosis;
pub(in crate::store::sqlite) mod old_transaction;
pub(in crate::store::sqlite) mod quarantine;
