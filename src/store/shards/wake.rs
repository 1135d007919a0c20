//! Wake-ups of other processes about new events. They only save time: a wake-up may be lost, and may be wrong.

use std::convert::Infallible;

use sqlx::{Database, Pool};

use crate::recipient::Recipient;
use crate::shard::ShardSet;
use crate::store::fault::Fault;

/// Wake-up of one process for the others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notification {
    /// These have events that are committed.
    pub recipients: Vec<String>,
    /// Recipients of these shards have such events, too, or had some when this process did not listen.
    pub committed: ShardSet,
    /// Recipients of these shards may have events, now or soon.
    pub shards: ShardSet,
}

impl Notification {
    /// Returns the wake-up with shards instead of names.
    pub(in crate::store) fn by_shards(&self) -> Notification {
        let parsed = self.recipients.iter().filter_map(|to| to.parse::<Recipient>().ok());
        let committed = parsed.map(|to| to.shard()).collect::<ShardSet>().or(self.committed);
        Notification { recipients: Vec::new(), committed, shards: self.shards }
    }
}

/// Statements by which an engine wakes up other processes.
pub trait WakeUpDialect: Database {
    /// Whether [`send_wake_up`](WakeUpDialect::send_wake_up) does anything.
    const SENDS_WAKE_UPS: bool;

    /// Notifies the processes that listen, after the commit and on a connection of its own: inside a transaction that
    /// inserts it would make the inserting ones wait for each other.
    fn send_wake_up(
        conn: &mut Self::Connection,
        notification: Notification,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Listens, and reports wake-ups, for ever. Reports all shards as `committed` once it listens, because earlier
    /// wake-ups were missed.
    ///
    /// Takes a connection apart from the pool's. Cancel safe.
    fn hear_wake_ups(
        pool: &Pool<Self>,
        report: impl Fn(Notification) + Send + Sync,
    ) -> impl Future<Output = Result<Infallible, Fault>> + Send;
}
