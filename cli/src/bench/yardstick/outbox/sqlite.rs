//! The hand-written outbox on SQLite.

use std::collections::BTreeMap;

use sqlx::{Sqlite, SqliteConnection, SqliteExecutor, SqlitePool};
use uuid::Uuid;

use super::{LEAVE_DUE, Message, OutboxByHand, OutboxKey, Shards};
use crate::bench::engine::Result;

const TAKE_BETWEEN: &str = "
DELETE FROM bench_event WHERE (shard, recipient, id) IN (
    SELECT shard, recipient, id FROM bench_event WHERE shard BETWEEN $1 AND $2 ORDER BY shard, recipient, id LIMIT $3
) RETURNING shard, recipient, value";

const COUNT: &str = "
UPDATE bench_state SET count = count + u.value ->> 2 FROM json_each($1) AS u
WHERE shard = u.value ->> 0 AND recipient = u.value ->> 1";

const LAY_OUT: &str = "
INSERT INTO bench_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
SELECT $1, $2, $3, $4, now.us, now.us + 10000000, $5
FROM (SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS us) AS now";

const DELETE_SENT: &str = "
DELETE FROM bench_outbox WHERE (shard, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM json_each($1))";

/// As on Postgres.
macro_rules! fill {
    ($table:literal) => {
        concat!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
             INSERT INTO ",
            $table,
            " (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
             SELECT i / 50 * 97 % 256, unhex(printf('%012x7', us / 1000) || substr(hex(randomblob(10)), 2)),
                    'eventbox.bench', 'order.changed', us, us + 10000000, $1
             FROM (SELECT i, (unixepoch() - 3600) * 1000000 + i * 3590000000 / $2 AS us FROM n)"
        )
    };
}

/// Keeps other processes from these shards.
const LEASE: &str = "
INSERT INTO bench_lease (shard, until_us) VALUES ($1, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + 10000000)
ON CONFLICT (shard) DO UPDATE SET until_us = excluded.until_us";

const NEXT_PAGE: &str = "
SELECT shard, id, payload FROM bench_outbox
WHERE (shard, id) > ($1, $2) AND shard <= $3
  AND next_attempt_at_us <= CAST(unixepoch('subsec') * 1000000 AS INTEGER)
ORDER BY shard, id LIMIT $4 + 0";

impl OutboxByHand for Sqlite {
    async fn take_between(tx: &mut SqliteConnection, (first, last): Shards, max: i64) -> Result<Vec<Vec<u8>>> {
        let query = sqlx::query_as(TAKE_BETWEEN).bind(first).bind(last).bind(max);
        let rows: Vec<(i16, String, Vec<u8>)> = query.fetch_all(&mut *tx).await?;
        let mut counts: BTreeMap<(i16, &str), u64> = BTreeMap::new();
        for (shard, recipient, _) in &rows {
            *counts.entry((*shard, recipient)).or_default() += 1;
        }
        let counts = counts.iter().map(|((shard, recipient), count)| serde_json::json!([shard, recipient, count]));
        let counts = serde_json::Value::from_iter(counts).to_string();
        sqlx::query(COUNT).bind(counts).execute(tx).await?;
        Ok(rows.into_iter().map(|(.., value)| value).collect())
    }

    async fn lay_out(tx: &mut SqliteConnection, messages: &[Message]) -> Result<()> {
        for Message { key: (shard, id), event, payload } in messages {
            let query = sqlx::query(LAY_OUT).bind(shard).bind(id).bind(event.source()).bind(event.event_type());
            query.bind(payload.as_slice()).execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn delete_sent(pool: &SqlitePool, keys: &[OutboxKey]) -> Result<()> {
        delete(pool, keys).await
    }

    async fn fill_outbox(pool: &SqlitePool, by_hand: bool, payload: &[u8], messages: i64) -> Result<()> {
        let sql = if by_hand { fill!("bench_outbox") } else { fill!("eventbox_outbox") };
        sqlx::query(sql).bind(payload).bind(messages).execute(pool).await.map(drop)
    }

    async fn next_page(
        tx: &mut SqliteConnection,
        (shard, id): OutboxKey,
        last: i16,
        max: i64,
    ) -> Result<Vec<(OutboxKey, Vec<u8>)>> {
        sqlx::query(LEASE).bind(last).execute(&mut *tx).await?;
        let query = sqlx::query_as(NEXT_PAGE).bind(shard).bind(id).bind(last).bind(max);
        let rows: Vec<(i16, Uuid, Vec<u8>)> = query.fetch_all(tx).await?;
        Ok(rows.into_iter().map(|(shard, id, payload)| ((shard, id), payload)).collect())
    }

    async fn delete_page(tx: &mut SqliteConnection, keys: &[OutboxKey]) -> Result<()> {
        delete(tx, keys).await
    }

    async fn leave_due(tx: &mut SqliteConnection) -> Result<()> {
        sqlx::raw_sql(LEAVE_DUE).execute(tx).await.map(drop)
    }

    async fn left_by_hand(pool: &SqlitePool) -> Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM bench_outbox").fetch_one(pool).await
    }
}

async fn delete(executor: impl SqliteExecutor<'_>, keys: &[OutboxKey]) -> Result<()> {
    let keys = keys.iter().map(|(shard, id)| serde_json::json!([shard, id.simple().to_string()]));
    let keys = serde_json::Value::from_iter(keys).to_string();
    sqlx::query(DELETE_SENT).bind(keys).execute(executor).await.map(drop)
}
