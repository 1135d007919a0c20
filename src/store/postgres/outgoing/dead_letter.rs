//! Dead letters on Postgres.

use sqlx::{PgConnection, Postgres};

use super::outbox::columns;
use crate::store::fault::Fault;
use crate::store::outgoing::dead_letter::DeadLetterDialect;
use crate::store::outgoing::outbox::OutboxKey;
use crate::store::postgres::{by_shard, now_us};

impl DeadLetterDialect for Postgres {
    async fn replay_dead(tx: &mut PgConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::replay_dead(tx, keys).await;
        }
        let query = sqlx::query(concat!(
            "WITH back AS (
                 DELETE FROM eventbox_dead_letter d USING unnest((SELECT $1::int2[]), $2::uuid[]) AS u (shard, id)
                 WHERE d.shard = u.shard AND d.id = u.id AND d.recipient IS NULL
                 RETURNING d.shard, d.id, d.source, d.type, d.origin, d.code, d.reason, d.payload
             )
             INSERT INTO eventbox_outbox
                 (shard, id, source, type, origin, attempts, created_at_us, next_attempt_at_us, last_code, last_error,
                  payload)
             SELECT shard, id, source, type, origin, 0, ",
            now_us!(),
            ", ",
            now_us!(),
            ", code, reason, payload FROM back ON CONFLICT DO NOTHING"
        ));
        let (shards, ids) = columns(keys);
        Ok(query.bind(shards).bind(ids).execute(tx).await?.rows_affected())
    }

    async fn delete_dead(conn: &mut PgConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::delete_dead(conn, keys).await;
        }
        let query = sqlx::query(
            "DELETE FROM eventbox_dead_letter d USING unnest((SELECT $1::int2[]), $2::uuid[]) AS u (shard, id)
             WHERE d.shard = u.shard AND d.id = u.id AND d.recipient IS NULL",
        );
        let (shards, ids) = columns(keys);
        Ok(query.bind(shards).bind(ids).execute(conn).await?.rows_affected())
    }
}
