//! SQLite: the twins of `store/shards`.

pub(in crate::store::sqlite) mod wake;
