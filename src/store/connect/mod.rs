//! The way to the database: connections, their sessions, the schema, transactions that share a commit.

pub(in crate::store) mod connection;
pub(in crate::store) mod executor;
pub(in crate::store) mod group;
pub(in crate::store) mod layout;
pub(in crate::store) mod migrations;
pub(in crate::store) mod schema;
pub(in crate::store) mod session;
pub(in crate::store) mod takeover;
pub(in crate::store) mod transaction;
