//! `eventbox_dead_letter`: messages of the outbox that could not be delivered.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::outbox::OutboxKey;
use crate::store::bound::{Bound, Heavy, Page, fill, weigh};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A message that could not be delivered.
#[derive(Debug)]
pub struct DeadRow {
    pub key: OutboxKey,
    pub source: String,
    pub r#type: String,
    pub origin: Option<String>,
    pub code: String,
    pub reason: String,
    pub attempts: i32,
    pub dead_at_us: i64,
    pub payload: Vec<u8>,
}

impl Heavy for DeadRow {
    fn id(&self) -> Uuid {
        self.key.id
    }

    fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.payload
    }
}

/// Statements on dead letters that differ between the engines.
pub trait DeadLetterDialect: Database {
    /// Moves dead letters back to the outbox, due at once and with a first attempt again. Returns the number of moved
    /// messages.
    fn replay_dead(tx: &mut Self::Connection, keys: &[OutboxKey]) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Deletes dead letters. Returns the number of deleted messages.
    fn delete_dead(conn: &mut Self::Connection, keys: &[OutboxKey]) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on dead letters that both engines accept.
pub trait DeadLetterTable: DeadLetterDialect {
    /// Returns dead letters in key order, after a key.
    fn list_dead(
        conn: &mut Self::Connection,
        after: OutboxKey,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<DeadRow>, Fault>> + Send;

    /// Deletes dead letters of at least the given age. Returns the number of deleted messages.
    fn prune_dead(
        conn: &mut Self::Connection,
        retention_us: i64,
        limit: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    impl DeadLetterTable for Engine {
        async fn list_dead(
            conn: &mut <Self as Database>::Connection,
            after: OutboxKey,
            bound: Bound,
        ) -> Result<Page<DeadRow>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT shard, id, source, type, code, reason, attempts, dead_at_us,
                        CASE WHEN octet_length(payload) <= $4 THEN payload END, CAST(octet_length(payload) AS bigint),
                        origin
                 FROM eventbox_dead_letter
                 WHERE (shard, id) > ($1, $2) AND recipient IS NULL ORDER BY shard, id LIMIT $3 + 0",
            );
            let query = query.bind(after.shard).bind(after.id).bind(bound.rows()).bind(bound.small(1));
            let listed = weigh!(query.fetch(&mut *conn), 8, |row| DeadRow {
                key: OutboxKey { shard: row.try_get(0)?, id: row.try_get::<Uuid, _>(1)? },
                source: row.try_get(2)?,
                r#type: row.try_get(3)?,
                origin: row.try_get(10)?,
                code: row.try_get(4)?,
                reason: row.try_get(5)?,
                attempts: row.try_get(6)?,
                dead_at_us: row.try_get(7)?,
                payload: Vec::new(),
            });
            // In key order, as the list is: of what the statement may leave out at its limit, the first ones are there.
            Ok(fill!(listed, bound, conn, |missing| {
                let query = sqlx::query::<Engine>(
                    "SELECT id, payload FROM eventbox_dead_letter
                     WHERE (shard, id) > ($1, $2) AND recipient IS NULL AND octet_length(payload) > $3
                     ORDER BY shard, id LIMIT $4 + 0",
                );
                query.bind(after.shard).bind(after.id).bind(bound.small(1)).bind(missing.rows)
            }))
        }

        async fn prune_dead(
            conn: &mut <Self as Database>::Connection,
            retention_us: i64,
            limit: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "DELETE FROM eventbox_dead_letter WHERE (shard, id) IN (
                     SELECT shard, id FROM eventbox_dead_letter
                     WHERE recipient IS NULL AND dead_at_us <= ", now_us!(), " - $1 LIMIT $2 + 0
                 )"
            ));
            Ok(query.bind(retention_us).bind(limit).execute(conn).await?.rows_affected())
        }
    }
}
