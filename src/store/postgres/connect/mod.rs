//! Postgres: the twins of `store/connect`.

pub(in crate::store::postgres) mod check;
mod citus;
pub(in crate::store::postgres) mod group;
pub(in crate::store::postgres) mod pooler;
pub(in crate::store::postgres) mod schema;
pub(in crate::store::postgres) mod session;
