//! The hand-written outbox on Postgres.

use sqlx::{PgConnection, PgExecutor, PgPool, Postgres};
use uuid::Uuid;

use super::{LEAVE_DUE, Message, OutboxByHand, OutboxKey, Shards};
use crate::bench::engine::Result;

/// Deletes by place in the table, as the yardstick of the drains does.
const TAKE_BETWEEN: &str = "
WITH gone AS (
    DELETE FROM bench_event WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM bench_event WHERE shard BETWEEN $1 AND $2 ORDER BY shard, recipient, id LIMIT $3
    )) RETURNING shard, recipient, value
), counted AS (
    UPDATE bench_state s SET count = s.count + g.events
    FROM (SELECT shard, recipient, count(*) AS events FROM gone GROUP BY shard, recipient) g
    WHERE s.shard = g.shard AND s.recipient = g.recipient
)
SELECT value FROM gone";

const LAY_OUT: &str = "
INSERT INTO bench_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
SELECT u.shard, u.id, u.source, u.type, now.us, now.us + 10000000, u.payload
FROM unnest($1::int2[], $2::uuid[], $3::text[], $4::text[], $5::bytea[]) AS u (shard, id, source, type, payload),
     (SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::int8 AS us) AS now";

const DELETE_SENT: &str = "
DELETE FROM bench_outbox o
USING unnest($1::int2[], $2::uuid[]) AS u (shard, id),
      (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
WHERE o.shard = u.shard AND o.id = u.id";

/// The statements that fill an outbox: equally many messages for each second of the last hour, in the order of their
/// ids, and 50 together in a shard, as one insert lays them.
macro_rules! fill {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
             SELECT n / 50 * 97 % 256,
                    (lpad(to_hex(us / 1000), 12, '0') || '7' ||
                     right(replace(gen_random_uuid()::text, '-', ''), 19))::uuid,
                    'eventbox.bench', 'order.changed', us, us + 10000000, $1
             FROM (SELECT n, (extract(epoch FROM now()) * 1000000)::int8 - 3600000000 + n * 3590000000 / $2 AS us
                   FROM generate_series(1, $2) n) AS rows"
        )
    };
}

/// Locks the page, so that no other process takes it before the transaction ends.
const NEXT_PAGE: &str = "
SELECT shard, id, payload FROM bench_outbox
WHERE (shard, id) > ($1, $2) AND shard <= $3
  AND next_attempt_at_us <= (extract(epoch FROM statement_timestamp()) * 1000000)::int8
ORDER BY shard, id LIMIT $4 FOR UPDATE SKIP LOCKED";

impl OutboxByHand for Postgres {
    async fn take_between(tx: &mut PgConnection, (first, last): Shards, max: i64) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar(TAKE_BETWEEN).bind(first).bind(last).bind(max).fetch_all(tx).await
    }

    async fn lay_out(tx: &mut PgConnection, messages: &[Message]) -> Result<()> {
        let query = sqlx::query(LAY_OUT)
            .bind(messages.iter().map(|message| message.key.0).collect::<Vec<_>>())
            .bind(messages.iter().map(|message| message.key.1).collect::<Vec<_>>())
            .bind(messages.iter().map(|message| message.event.source()).collect::<Vec<_>>())
            .bind(messages.iter().map(|message| message.event.event_type()).collect::<Vec<_>>())
            .bind(messages.iter().map(|message| message.payload.as_slice()).collect::<Vec<_>>());
        query.execute(tx).await.map(drop)
    }

    async fn delete_sent(pool: &PgPool, keys: &[OutboxKey]) -> Result<()> {
        delete(pool, keys).await
    }

    async fn fill_outbox(pool: &PgPool, by_hand: bool, payload: &[u8], messages: i64) -> Result<()> {
        let sql = if by_hand { fill!("bench_outbox") } else { fill!("eventbox_outbox") };
        sqlx::query(sql).bind(payload).bind(messages).execute(pool).await.map(drop)
    }

    async fn next_page(
        tx: &mut PgConnection,
        (shard, id): OutboxKey,
        last: i16,
        max: i64,
    ) -> Result<Vec<(OutboxKey, Vec<u8>)>> {
        let query = sqlx::query_as(NEXT_PAGE).bind(shard).bind(id).bind(last).bind(max);
        let rows: Vec<(i16, Uuid, Vec<u8>)> = query.fetch_all(tx).await?;
        Ok(rows.into_iter().map(|(shard, id, payload)| ((shard, id), payload)).collect())
    }

    async fn delete_page(tx: &mut PgConnection, keys: &[OutboxKey]) -> Result<()> {
        delete(tx, keys).await
    }

    async fn leave_due(tx: &mut PgConnection) -> Result<()> {
        sqlx::raw_sql(LEAVE_DUE).execute(tx).await.map(drop)
    }

    async fn left_by_hand(pool: &PgPool) -> Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM bench_outbox").fetch_one(pool).await
    }
}

async fn delete(executor: impl PgExecutor<'_>, keys: &[OutboxKey]) -> Result<()> {
    let query = sqlx::query(DELETE_SENT)
        .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>());
    query.execute(executor).await.map(drop)
}
