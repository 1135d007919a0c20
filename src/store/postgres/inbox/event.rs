//! Events and names on Postgres.

use std::time::Duration;

use sqlx::{Executor, PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use super::names;
use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::inbox::event::{Durability, Emitted, EventDialect, EventRow};
use crate::store::postgres::{by_shard, now_us};
use crate::store::{BoxFuture, arguments_of};

const INSERT_EVENT: &str =
    "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value) VALUES ($1, $2, $3, $4, $5, $6)";

/// Many events without names and due times: they go into the box, and wait for no other transaction.
const INSERT_PLAIN_EVENTS: &str = "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
 SELECT * FROM unnest((SELECT $1::int2[]), $2::text[], $3::uuid[], $4::text[], $5::text[], $6::bytea[])";

/// The number of what became of a row's event: added, a duplicate, or tombstoned. Reads the rows `row` and `noted`.
macro_rules! name_answer {
    () => {
        "CASE
        WHEN name IS NULL OR id IN (SELECT id FROM noted) THEN 0
        WHEN EXISTS (
            SELECT 1 FROM eventbox_tombstone t
            WHERE t.shard = row.shard AND t.recipient = row.recipient AND t.name = row.name AND t.id = row.id
        ) THEN 0
        WHEN EXISTS (
            SELECT 1 FROM eventbox_tombstone t
            WHERE t.shard = row.shard AND t.recipient = row.recipient AND t.name = row.name
            AND NOT EXISTS (SELECT 1 FROM eventbox_event e
                WHERE e.shard = t.shard AND e.recipient = t.recipient AND e.id = t.id)
            AND NOT EXISTS (SELECT 1 FROM eventbox_timer m
                WHERE m.shard = t.shard AND m.recipient = t.recipient AND m.id = t.id)
            AND NOT EXISTS (SELECT 1 FROM eventbox_dead_letter d WHERE d.shard = t.shard AND d.id = t.id)
        ) THEN 2
        ELSE 1
    END"
    };
}
pub(in crate::store::postgres) use name_answer;

/// Inserts the rows that a race leaves, and returns the result of each row.
///
/// The unique key of the tombstones waits for a first copy that is not committed yet, in sorted order. The statement's
/// own snapshot decides the result of a row that was not added: a remembered name without an event is a tombstone.
/// Under a synchronous standby a duplicate writes WAL too, so that it is not acknowledged before the first copy is
/// replicated. All rows are due by one reading of the clock, so that equal waits end in the order of the ids. With $9,
/// the statement sets the transaction's `lock_timeout` before any insert: an uncorrelated subquery is evaluated before
/// the first row. With $11, the statement also sets `synchronous_commit`, which counts at the commit.
const INSERT_EVENTS: &str = concat!(
    "
WITH clock AS MATERIALIZED (SELECT ",
    now_us!(),
    " AS us), row AS MATERIALIZED (
    SELECT u.shard, u.recipient, u.id, u.name, u.traceparent, u.origin, u.value,
           coalesce(u.at_us, clock.us + u.in_us) AS due_at_us, u.ord
    FROM clock
    CROSS JOIN unnest((SELECT $1::int2[]), $2::text[], $3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::int8[],
        $8::int8[], $10::text[])
        WITH ORDINALITY AS u (shard, recipient, id, name, traceparent, value, at_us, in_us, origin, ord)
    WHERE (SELECT CASE WHEN $9::text IS NULL THEN true ELSE set_config('lock_timeout', $9, true) <> '' END)
    AND (SELECT CASE WHEN $11 THEN set_config('synchronous_commit', 'off', true) <> '' ELSE true END)
), noted AS (
    INSERT INTO eventbox_tombstone (shard, recipient, name, id)
    SELECT shard, recipient, name, id FROM row WHERE name IS NOT NULL ORDER BY ord
    ON CONFLICT DO NOTHING RETURNING id
), added AS (
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
    SELECT shard, recipient, id, name, traceparent, origin, value FROM row
    WHERE due_at_us IS NULL AND (name IS NULL OR id IN (SELECT id FROM noted))
), timed AS (
    INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, origin, value)
    SELECT shard, due_at_us, id, recipient, name, traceparent, origin, value FROM row
    WHERE due_at_us IS NOT NULL AND (name IS NULL OR id IN (SELECT id FROM noted))
), answer AS (
    SELECT ord, ",
    name_answer!(),
    " AS noted FROM row
)
SELECT noted, CASE WHEN noted > 0 AND current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'eventbox', '')::text END
FROM answer ORDER BY ord"
);

/// Finds the events with the ids `$3`, looked up one by one: a planner that takes the box for short would read all of
/// it. No row of this table is ever changed, so a row that was found is still there unchanged, or is gone.
macro_rules! among_ids {
    () => {
        "ctid = ANY (ARRAY(
    SELECT e.ctid FROM unnest((SELECT $3::uuid[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT ctid FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id = wanted.id LIMIT 1
    ) e
))"
    };
}
pub(in crate::store::postgres) use among_ids;

/// The statement of [`EventDialect::delete_events`]; its plan must use the primary key.
pub(crate) const DELETE_EVENTS: &str = concat!("DELETE FROM eventbox_event WHERE ", among_ids!());

impl EventDialect for Postgres {
    fn insert_event<'e, E>(executor: E, row: EventRow<'_>) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e,
    {
        let query = sqlx::query::<Self>(INSERT_EVENT).bind(row.shard).bind(row.recipient).bind(row.id);
        let arguments = arguments_of(query.bind(row.traceparent).bind(row.origin).bind(row.value));
        Box::pin(async move {
            sqlx::query_with::<Self, _>(INSERT_EVENT, arguments?).execute(executor).await?;
            Ok(())
        })
    }

    async fn insert_on_pool(pool: &Pool<Self>, row: EventRow<'_>) -> Result<(), Fault> {
        let inserting = async {
            let mut conn = hold(pool).await?;
            let done = Self::insert_event(&mut *conn, row).await;
            conn.close_if_unfit(done)
        };
        answered(pool, inserting).await
    }

    fn insert_events<'e>(
        conn: &'e mut PgConnection,
        rows: &'e [EventRow<'e>],
    ) -> BoxFuture<'e, Result<Vec<Emitted>, Fault>> {
        if by_shard::is_on() {
            return Box::pin(by_shard::emit::insert(conn, rows));
        }
        if rows.iter().all(EventRow::is_plain) {
            return insert_plain_events(conn, rows);
        }
        insert_any_events(conn, rows, None, Durability::Immediate)
    }

    async fn insert_all_on_pool(
        pool: &Pool<Self>,
        rows: &[EventRow<'_>],
        durability: Durability,
    ) -> Result<Vec<Emitted>, Fault> {
        if rows.iter().any(|row| row.name.is_some()) {
            return names::insert(pool, rows, |wait| insert_within(pool, rows, wait, durability)).await;
        }
        if by_shard::is_on() {
            return by_shard::emit::insert_on_pool(pool, rows, None).await;
        }
        let inserting = async {
            let mut conn = hold(pool).await?;
            let done = Self::insert_events(&mut *conn, rows).await;
            conn.close_if_unfit(done)
        };
        answered(pool, inserting).await
    }

    const ONE_WRITER: bool = false;

    async fn insert_group(
        pool: &Pool<Self>,
        rows: &[EventRow<'_>],
        lock_wait: Duration,
    ) -> Result<Vec<Emitted>, Fault> {
        if rows.iter().any(|row| !row.is_plain()) {
            return insert_within(pool, rows, lock_wait, Durability::Immediate).await;
        }
        if by_shard::is_on() {
            return by_shard::emit::insert_on_pool(pool, rows, None).await;
        }
        let inserting = async {
            let mut conn = hold(pool).await?;
            let done = insert_plain_events(&mut *conn, rows).await;
            conn.close_if_unfit(done)
        };
        answered(pool, inserting).await
    }

    async fn delete_events(tx: &mut PgConnection, shard: i16, recipient: &str, ids: &[Uuid]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::delete_events(tx, (shard, recipient), ids).await;
        }
        let query = sqlx::query::<Self>(DELETE_EVENTS);
        Ok(query.bind(shard).bind(recipient).bind(ids).execute(tx).await?.rows_affected())
    }
}

/// Inserts events in a transaction of their own. Each wait for a lock is bounded by `lock_wait`.
async fn insert_within(
    pool: &Pool<Postgres>,
    rows: &[EventRow<'_>],
    lock_wait: Duration,
    durability: Durability,
) -> Result<Vec<Emitted>, Fault> {
    if by_shard::is_on() {
        return by_shard::emit::insert_on_pool(pool, rows, Some(lock_wait)).await;
    }
    let lock_wait = lock_wait.as_millis().clamp(1, 86_400_000).to_string();
    let inserting = async {
        let mut conn = hold(pool).await?;
        let done = insert_any_events(&mut *conn, rows, Some(lock_wait), durability).await;
        conn.close_if_unfit(done)
    };
    answered(pool, inserting).await
}

fn insert_plain_events<'e, E>(executor: E, rows: &[EventRow<'_>]) -> BoxFuture<'e, Result<Vec<Emitted>, Fault>>
where
    E: Executor<'e, Database = Postgres> + 'e,
{
    let query = sqlx::query::<Postgres>(INSERT_PLAIN_EVENTS)
        .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.traceparent).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.value).collect::<Vec<_>>());
    let (arguments, count) = (arguments_of(query), rows.len());
    Box::pin(async move {
        sqlx::query_with::<Postgres, _>(INSERT_PLAIN_EVENTS, arguments?).execute(executor).await?;
        Ok(vec![Emitted::Added; count])
    })
}

fn insert_any_events<'e, E>(
    executor: E,
    rows: &[EventRow<'_>],
    lock_timeout_ms: Option<String>,
    durability: Durability,
) -> BoxFuture<'e, Result<Vec<Emitted>, Fault>>
where
    E: Executor<'e, Database = Postgres> + 'e,
{
    let (at_us, in_us): (Vec<_>, Vec<_>) = rows.iter().map(EventRow::due_columns).unzip();
    let query = sqlx::query::<Postgres>(INSERT_EVENTS)
        .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.traceparent).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.value).collect::<Vec<_>>())
        .bind(at_us)
        .bind(in_us)
        .bind(lock_timeout_ms)
        .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>())
        .bind(durability == Durability::Deferred);
    let arguments = arguments_of(query);
    Box::pin(async move {
        let answers = sqlx::query_with::<Postgres, _>(INSERT_EVENTS, arguments?).fetch_all(executor).await?;
        answers.iter().map(|answer| Ok(Emitted::from_code(answer.try_get::<i32, _>(0)?.into()))).collect()
    })
}
