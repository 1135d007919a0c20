//! `eventbox_outbox`: messages on their way out.

use sqlx::{Database, Executor};
use uuid::Uuid;

use super::fault::Fault;

/// A message to keep until it is delivered.
#[derive(Debug, Clone, Copy)]
pub struct OutboxRow<'a> {
    pub shard: i16,
    pub id: Uuid,
    pub source: &'a str,
    pub r#type: &'a str,
    pub payload: &'a [u8],
}

/// Statements on the outbox.
pub trait OutboxTable: Database {
    /// Inserts messages in one statement. The insert is the first claim: nobody else may send them for `hold_us` microseconds.
    fn insert_outbox<'e, E>(
        executor: E,
        rows: &[OutboxRow<'_>],
        hold_us: i64,
    ) -> impl Future<Output = Result<(), Fault>> + Send
    where
        E: Executor<'e, Database = Self>;
}
