//! The outbox that a good engineer would write by hand: its tables, and one call for each step of a message.

mod postgres;
mod sqlite;

use eventbox::CloudEvent;
use sqlx::{Database, Pool};
use uuid::Uuid;

use crate::bench::engine::Result;

/// A range of shards, both ends included. One consumer owns it, so the events of a recipient stay in order.
pub(crate) type Shards = (i16, i16);

/// Address of a row of the outbox.
pub(crate) type OutboxKey = (i16, Uuid);

/// Statements that move all rows into the library's outbox.
const LEAVE_DUE: &str = "
INSERT INTO eventbox_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
SELECT shard, id, source, type, created_at_us, created_at_us, payload FROM bench_outbox ORDER BY shard, id;
DELETE FROM bench_outbox";

/// A message, with its row.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) key: OutboxKey,
    pub(crate) event: CloudEvent,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Makes a message whose row is in this shard.
    pub(crate) fn new(shard: i16, event: CloudEvent) -> Self {
        let payload = event.encode();
        Message { key: (shard, Uuid::now_v7()), event, payload }
    }
}

/// The statements of a hand-written outbox. Its table has the columns and the indexes of the library's table.
pub(crate) trait OutboxByHand: Database {
    /// Takes up to `max` of the oldest events of these shards, and counts them in the states of their recipients.
    /// Returns the values.
    fn take_between(
        tx: &mut Self::Connection,
        shards: Shards,
        max: i64,
    ) -> impl Future<Output = Result<Vec<Vec<u8>>>> + Send;

    /// Inserts messages that are sent from memory after the commit.
    fn lay_out(tx: &mut Self::Connection, messages: &[Message]) -> impl Future<Output = Result<()>> + Send;

    /// Deletes delivered messages. A crash may undo it, as that of the library: they are then sent again.
    fn delete_sent(pool: &Pool<Self>, keys: &[OutboxKey]) -> impl Future<Output = Result<()>> + Send;

    /// Moves the rows into the library's outbox, as messages that an earlier process has left there and that are due.
    fn leave_due(tx: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;

    /// Fills the library's outbox, or that by hand, with messages of the last hour that are due.
    fn fill_outbox(
        pool: &Pool<Self>,
        by_hand: bool,
        payload: &[u8],
        messages: i64,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Reads up to `max` of the next due messages in the order of their keys, from the shard of `after` to `last`. No
    /// other process may send them, until the transaction ends on Postgres, and for ten seconds on SQLite.
    fn next_page(
        tx: &mut Self::Connection,
        after: OutboxKey,
        last: i16,
        max: i64,
    ) -> impl Future<Output = Result<Vec<(OutboxKey, Vec<u8>)>>> + Send;

    /// Deletes the messages of a page in its transaction.
    fn delete_page(tx: &mut Self::Connection, keys: &[OutboxKey]) -> impl Future<Output = Result<()>> + Send;

    /// Counts the messages that are left.
    fn left_by_hand(pool: &Pool<Self>) -> impl Future<Output = Result<i64>> + Send;
}
