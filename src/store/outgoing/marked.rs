//! Messages that are not delivered, found by the mark that their ids end with.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::outbox::OutboxKey;
use crate::store::fault::Fault;

/// A message that carries a mark, and is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkedMessage {
    pub key: OutboxKey,
    /// Whether it is a dead letter. Otherwise it is in the outbox.
    pub is_dead: bool,
}

/// The messages to look for.
#[derive(Debug, Clone, Copy)]
pub struct MarkedWanted {
    /// Last four bytes of their ids.
    pub mark: u32,
    /// Id that theirs are greater than.
    pub since: Uuid,
    /// Key that theirs come after; the first one is shard 0 and the nil id.
    pub after: OutboxKey,
    /// Most messages.
    pub limit: i64,
}

/// The statement that finds marked messages.
pub trait MarkedDialect: Database {
    /// Returns the messages that carry a mark and are not delivered, of the outbox and the dead letters in one
    /// snapshot, in key order.
    ///
    /// Reads the messages whose ids are greater than `since`, whatever their marks.
    fn marked_messages(
        conn: &mut Self::Connection,
        wanted: MarkedWanted,
    ) -> impl Future<Output = Result<Vec<MarkedMessage>, Fault>> + Send;
}

/// Reads rows of `shard, id, is_dead`.
pub(in crate::store) fn marked<R: Row>(rows: &[R]) -> Result<Vec<MarkedMessage>, Fault>
where
    usize: sqlx::ColumnIndex<R>,
    i16: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    Uuid: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    bool: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let read = |row: &R| {
        let key = OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? };
        Ok(MarkedMessage { key, is_dead: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}
