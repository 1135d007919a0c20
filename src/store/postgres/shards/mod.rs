//! Postgres: the twins of `store/shards`.

pub(in crate::store::postgres) mod wake;
