//! Telling other processes that a shard may have new events. It only makes them faster: a wake-up may be lost, and may be wrong.

use std::convert::Infallible;

use sqlx::{Database, Pool};

use super::fault::Fault;
use crate::shard::ShardSet;

/// What an engine has for waking up other processes.
pub trait WakeUp: Database {
    /// Whether [`send_wake_up`](WakeUp::send_wake_up) does anything.
    const SENDS_WAKE_UPS: bool;

    /// Tells the processes that listen about shards, after the commit and on a connection of its own: inside a transaction that inserts it
    /// would make the inserting ones wait for each other.
    fn send_wake_up(conn: &mut Self::Connection, shards: ShardSet) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Listens, and reports shards that may have new events, for ever; all of them once it listens, because what came before was not heard.
    ///
    /// Takes a connection apart from the pool's. Cancel safe.
    fn hear_wake_ups(
        pool: &Pool<Self>,
        report: impl Fn(ShardSet) + Send + Sync,
    ) -> impl Future<Output = Result<Infallible, Fault>> + Send;
}
