//! SQLite: the twins of `store/connect`.

pub(in crate::store::sqlite) mod schema;
pub(in crate::store::sqlite) mod session;
pub(in crate::store::sqlite) mod watch;
