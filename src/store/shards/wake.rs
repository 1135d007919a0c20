//! Wake-ups of other processes about new events. They only save time: a wake-up may be lost, and may be wrong.

use std::convert::Infallible;

use sqlx::{Database, Pool};

use crate::recipient::Recipient;
use crate::shard::ShardSet;
use crate::store::fault::Fault;

/// Wake-up of one process for the others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Recipients that have committed events.
    pub recipients: Vec<String>,
    /// Shards of recipients that have committed events, or had some when this process did not listen.
    pub committed: ShardSet,
    /// Shards of recipients that may have events, now or soon.
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

    /// Notifies the listening processes, after the commit and on a separate connection. Inside an inserting
    /// transaction, a notification would make the inserting transactions wait for each other.
    fn send_wake_up(
        conn: &mut Self::Connection,
        notification: Notification,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Listens and reports wake-ups, for ever. Reports all shards as `committed` once it listens, because it missed the
    /// earlier wake-ups.
    ///
    /// Uses a connection outside of the pool. Cancel safe.
    fn hear_wake_ups(
        pool: &Pool<Self>,
        report: impl Fn(Notification) + Send + Sync,
    ) -> impl Future<Output = Result<Infallible, Fault>> + Send;
}
