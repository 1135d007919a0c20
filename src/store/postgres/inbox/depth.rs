//! Measured emits on Postgres.

use std::time::Duration;

use sqlx::{Executor, PgConnection, Pool, Postgres, Row};

use super::event::name_answer;
use super::names;
use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::inbox::depth::{DepthBound, DepthDialect, Measured, oldest, waiting};
use crate::store::inbox::event::EventRow;
use crate::store::postgres::{by_shard, now_us};
use crate::store::{BoxFuture, arguments_of};

/// Inserts an event as `INSERT_EVENTS` does, unless its box is full, and measures the box.
///
/// The snapshot of the statement has neither the event itself nor what others emit meanwhile. So emits at the same time
/// pass the bound together, and none waits for another. Its plan must use the primary key, however long the box is.
const INSERT_MEASURED: &str = concat!(
    "
WITH clock AS MATERIALIZED (SELECT ",
    now_us!(),
    " AS us), box AS MATERIALIZED (
    SELECT ",
    waiting!(),
    " AS waiting, ",
    oldest!(),
    " AS oldest
), row AS MATERIALIZED (
    SELECT $1::int2 AS shard, $2::text AS recipient, $3::uuid AS id, $4::text AS name, $5::text AS traceparent,
           $6::text AS origin, $7::bytea AS value, coalesce($8::int8, clock.us + $9::int8) AS due_at_us,
           box.waiting < $11::int8 OR $8::int8 IS NOT NULL OR $9::int8 IS NOT NULL AS has_room
    FROM clock CROSS JOIN box
    WHERE (SELECT CASE WHEN $12::text IS NULL THEN true ELSE set_config('lock_timeout', $12, true) <> '' END)
), noted AS (
    INSERT INTO eventbox_tombstone (shard, recipient, name, id)
    SELECT shard, recipient, name, id FROM row WHERE has_room AND name IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING id
), added AS (
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
    SELECT shard, recipient, id, name, traceparent, origin, value FROM row
    WHERE has_room AND due_at_us IS NULL AND (name IS NULL OR id IN (SELECT id FROM noted))
), timed AS (
    INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, origin, value)
    SELECT shard, due_at_us, id, recipient, name, traceparent, origin, value FROM row
    WHERE due_at_us IS NOT NULL AND (name IS NULL OR id IN (SELECT id FROM noted))
), answer AS (
    SELECT CASE WHEN has_room OR EXISTS (
        SELECT 1 FROM eventbox_tombstone t
        WHERE t.shard = row.shard AND t.recipient = row.recipient AND t.name = row.name
    ) THEN ",
    name_answer!(),
    " ELSE 3 END AS noted FROM row
)
SELECT noted, waiting, oldest, CASE
    WHEN noted IN (1, 2) AND current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'eventbox', '')::text END
FROM answer CROSS JOIN box"
);

impl DepthDialect for Postgres {
    fn insert_measured<'e>(
        conn: &'e mut PgConnection,
        row: EventRow<'e>,
        bound: DepthBound,
    ) -> BoxFuture<'e, Result<Measured, Fault>> {
        if by_shard::is_on() {
            return Box::pin(by_shard::emit::insert_measured(conn, row, bound));
        }
        insert(conn, row, bound, None)
    }

    async fn insert_measured_on_pool(
        pool: &Pool<Self>,
        row: EventRow<'_>,
        bound: DepthBound,
    ) -> Result<Measured, Fault> {
        if row.name.is_some() {
            return names::insert(pool, &[row], |wait| insert_within(pool, row, bound, Some(wait))).await;
        }
        insert_within(pool, row, bound, None).await
    }
}

/// Inserts an event in a transaction of its own. Each wait for a lock is bounded by `lock_wait`.
async fn insert_within(
    pool: &Pool<Postgres>,
    row: EventRow<'_>,
    bound: DepthBound,
    lock_wait: Option<Duration>,
) -> Result<Measured, Fault> {
    if by_shard::is_on() {
        return by_shard::emit::insert_measured_on_pool(pool, row, bound, lock_wait).await;
    }
    let lock_wait = lock_wait.map(|wait| wait.as_millis().clamp(1, 86_400_000).to_string());
    let inserting = async {
        let mut conn = hold(pool).await?;
        let done = insert(&mut *conn, row, bound, lock_wait).await;
        conn.close_if_unfit(done)
    };
    answered(pool, inserting).await
}

fn insert<'e, E>(
    executor: E,
    row: EventRow<'_>,
    bound: DepthBound,
    lock_timeout_ms: Option<String>,
) -> BoxFuture<'e, Result<Measured, Fault>>
where
    E: Executor<'e, Database = Postgres> + 'e,
{
    let (at_us, in_us) = row.due_columns();
    let query = sqlx::query::<Postgres>(INSERT_MEASURED).bind(row.shard).bind(row.recipient).bind(row.id);
    let query = query.bind(row.name).bind(row.traceparent).bind(row.origin).bind(row.value).bind(at_us).bind(in_us);
    let query = query.bind(bound.count_up_to).bind(bound.max_waiting).bind(lock_timeout_ms);
    let arguments = arguments_of(query);
    Box::pin(async move {
        let answer = sqlx::query_with::<Postgres, _>(INSERT_MEASURED, arguments?).fetch_one(executor).await?;
        Ok(Measured::of_code(answer.try_get::<i32, _>(0)?.into(), answer.try_get(1)?, answer.try_get(2)?))
    })
}
