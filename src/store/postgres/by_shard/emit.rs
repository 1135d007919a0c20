//! Emits below one shard.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use super::{Together, bound_lock_wait, of_shards};
use crate::store::connect::connection::{answered, hold};
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::begin;
use crate::store::fault::Fault;
use crate::store::inbox::depth::{DepthBound, Measured};
use crate::store::inbox::event::{DueRow, Emitted, EventRow};
use crate::store::postgres::now_us;

const ADD_EVENTS: &str = "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
SELECT a.shard, u.recipient, u.id, u.name, u.traceparent, u.origin, u.value FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::text[]), $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bytea[])
    AS u (recipient, id, name, traceparent, origin, value)
WHERE a.shard = $1";

/// `$8` has times, and waits from now on where `$9` is 1.
const ADD_TIMERS: &str = concat!(
    "INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, origin, value)
SELECT a.shard, u.due_us + u.is_wait * ",
    now_us!(),
    ", u.id, u.recipient, u.name, u.traceparent, u.origin, u.value FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::text[]), $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::int8[],
    $9::int8[]) AS u (recipient, id, name, traceparent, origin, value, due_us, is_wait)
WHERE a.shard = $1"
);

/// The unique key waits for a first copy that is not committed yet, in sorted order.
const NOTE_NAMES: &str = "INSERT INTO eventbox_tombstone (shard, recipient, name, id)
SELECT a.shard, u.recipient, u.name, u.id FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::text[]), $3::text[], $4::uuid[]) WITH ORDINALITY AS u (recipient, name, id, ord)
WHERE a.shard = $1 ORDER BY u.ord ON CONFLICT DO NOTHING RETURNING id";

/// What became of events whose names were noted before: 0 for an id of its own, 2 for a name whose event is gone, and
/// 1 otherwise. With a synchronous standby it writes to the log, so that a duplicate is not acknowledged before the
/// first copy is replicated.
const NAME_ANSWERS: &str = "SELECT u.id, CASE
    WHEN t.id = u.id THEN 0
    WHEN t.id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM eventbox_event e
            WHERE e.shard = $1 AND e.recipient = u.recipient AND e.id = t.id)
        AND NOT EXISTS (SELECT 1 FROM eventbox_timer m
            WHERE m.shard = $1 AND m.recipient = u.recipient AND m.id = t.id)
        AND NOT EXISTS (SELECT 1 FROM eventbox_dead_letter d WHERE d.shard = $1 AND d.id = t.id) THEN 2
    ELSE 1 END AS noted,
    CASE WHEN current_setting('synchronous_standby_names') <> ''
         THEN pg_logical_emit_message(true, 'eventbox', '')::text END
FROM unnest((SELECT $2::text[]), $3::text[], $4::uuid[]) AS u (recipient, name, id)
LEFT JOIN eventbox_tombstone t ON t.shard = $1 AND t.recipient = u.recipient AND t.name = u.name";

/// The events of the box beside `$3`, counted up to `$4`, the oldest one, and whether the name `$5` is remembered.
const MEASURE: &str = "SELECT (SELECT count(*) FROM (
        SELECT 1 FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id <> $3
        ORDER BY e.id LIMIT $4
    ) AS counted),
    (SELECT e.id FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id <> $3 ORDER BY e.id LIMIT 1),
    EXISTS (SELECT 1 FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = $5)";

/// Inserts events as [`EventDialect::insert_events`](crate::store::inbox::event::EventDialect::insert_events) does. The
/// statements of each shard follow those of the shard before it, in one transaction.
pub(in crate::store::postgres) async fn insert(
    conn: &mut PgConnection,
    rows: &[EventRow<'_>],
) -> Result<Vec<Emitted>, Fault> {
    if is_one_statement(rows) {
        return insert_all(conn, rows, None).await;
    }
    let mut tx = Together::begin(conn).await?;
    let noted = insert_all(&mut tx, rows, None).await?;
    tx.commit().await?;
    Ok(noted)
}

/// Inserts events in a transaction of their own. Each wait for a lock is bounded by `lock_wait`.
pub(in crate::store::postgres) async fn insert_on_pool(
    pool: &Pool<Postgres>,
    rows: &[EventRow<'_>],
    lock_wait: Option<Duration>,
) -> Result<Vec<Emitted>, Fault> {
    let lock_wait = lock_wait.map(milliseconds);
    let inserting = async {
        if is_one_statement(rows) {
            let mut conn = hold(pool).await?;
            let done = insert_all(&mut conn, rows, None).await;
            return conn.close_if_unfit(done);
        }
        let mut tx = begin(pool, Postgres::BEGIN_WRITE, false).await?;
        let noted = insert_all(&mut tx, rows, lock_wait.as_deref()).await?;
        tx.commit().await?;
        Ok(noted)
    };
    answered(pool, inserting).await
}

/// Does what [`DepthDialect::insert_measured`](crate::store::inbox::depth::DepthDialect::insert_measured) does.
pub(in crate::store::postgres) async fn insert_measured(
    conn: &mut PgConnection,
    row: EventRow<'_>,
    bound: DepthBound,
) -> Result<Measured, Fault> {
    let mut tx = Together::begin(conn).await?;
    let measured = measure_and_insert(&mut tx, row, bound, None).await?;
    tx.commit().await?;
    Ok(measured)
}

/// Does the same in a transaction of its own.
pub(in crate::store::postgres) async fn insert_measured_on_pool(
    pool: &Pool<Postgres>,
    row: EventRow<'_>,
    bound: DepthBound,
    lock_wait: Option<Duration>,
) -> Result<Measured, Fault> {
    let lock_wait = lock_wait.map(milliseconds);
    let inserting = async {
        let mut tx = begin(pool, Postgres::BEGIN_WRITE, false).await?;
        let measured = measure_and_insert(&mut tx, row, bound, lock_wait.as_deref()).await?;
        tx.commit().await?;
        Ok(measured)
    };
    answered(pool, inserting).await
}

/// Returns whether the rows are plain, and of one shard: one insert, which needs no transaction around it.
fn is_one_statement(rows: &[EventRow<'_>]) -> bool {
    let first = rows.first().map(|row| row.shard);
    rows.iter().all(|row| row.is_plain() && Some(row.shard) == first)
}

fn milliseconds(wait: Duration) -> String {
    wait.as_millis().clamp(1, 86_400_000).to_string()
}

async fn measure_and_insert(
    tx: &mut PgConnection,
    row: EventRow<'_>,
    bound: DepthBound,
    lock_wait: Option<&str>,
) -> Result<Measured, Fault> {
    let query = sqlx::query(MEASURE).bind(row.shard).bind(row.recipient).bind(row.id);
    let found = query.bind(bound.count_up_to).bind(row.name).fetch_one(&mut *tx).await?;
    let (waiting, oldest, is_remembered): (i64, Option<Uuid>, bool) =
        (found.try_get(0)?, found.try_get(1)?, found.try_get(2)?);
    let has_room = waiting < bound.max_waiting || row.due.is_some();
    let emitted = match (has_room, is_remembered) {
        (true, _) => insert_all(tx, &[row], lock_wait).await?.first().copied(),
        (false, true) => name_answers(tx, row.shard, &[&row]).await?.into_values().next(),
        (false, false) => None,
    };
    Ok(Measured { emitted, waiting, oldest })
}

async fn insert_all(
    tx: &mut PgConnection,
    rows: &[EventRow<'_>],
    lock_wait: Option<&str>,
) -> Result<Vec<Emitted>, Fault> {
    let mut answers = vec![Emitted::Added; rows.len()];
    for (shard, part) in of_shards(rows, |row| row.shard) {
        let named: Vec<_> = part.iter().map(|(_, row)| *row).filter(|row| row.name.is_some()).collect();
        let noted = note_names(tx, shard, &named, lock_wait).await?;
        let is_added = |row: &EventRow<'_>| row.name.is_none() || noted.contains(&row.id);
        let added: Vec<_> = part.iter().map(|(_, row)| *row).filter(|row| is_added(row)).collect();
        let (events, timers): (Vec<_>, Vec<_>) = added.into_iter().partition(|row| row.due.is_none());
        add_events(tx, shard, &events).await?;
        add_timers(tx, shard, &timers).await?;
        if noted.len() < named.len() {
            let others: Vec<_> = named.into_iter().filter(|row| !noted.contains(&row.id)).collect();
            let found = name_answers(tx, shard, &others).await?;
            for (place, row) in part.iter().filter(|(_, row)| !is_added(row)) {
                if let Some(answer) = answers.get_mut(*place) {
                    *answer = found.get(&row.id).copied().unwrap_or(Emitted::Duplicate);
                }
            }
        }
    }
    Ok(answers)
}

async fn add_events(tx: &mut PgConnection, shard: i16, rows: &[&EventRow<'_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(ADD_EVENTS)
        .bind(shard)
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.traceparent).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.value).collect::<Vec<_>>());
    query.execute(tx).await?;
    Ok(())
}

async fn add_timers(tx: &mut PgConnection, shard: i16, rows: &[&EventRow<'_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let due = |row: &&EventRow<'_>| match row.due {
        Some(DueRow::AtUs(at_us)) => (at_us, 0_i64),
        Some(DueRow::InUs(in_us)) => (in_us, 1),
        None => (0, 1),
    };
    let (due_us, is_wait): (Vec<_>, Vec<_>) = rows.iter().map(due).unzip();
    let query = sqlx::query(ADD_TIMERS)
        .bind(shard)
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.traceparent).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.value).collect::<Vec<_>>())
        .bind(due_us)
        .bind(is_wait);
    query.execute(tx).await?;
    Ok(())
}

/// Notes names, and returns the ids of the events that may be added.
async fn note_names(
    tx: &mut PgConnection,
    shard: i16,
    rows: &[&EventRow<'_>],
    lock_wait: Option<&str>,
) -> Result<HashSet<Uuid>, Fault> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    if let Some(lock_wait) = lock_wait {
        bound_lock_wait(tx, shard, lock_wait).await?;
    }
    let query = sqlx::query_scalar(NOTE_NAMES)
        .bind(shard)
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>());
    Ok(query.fetch_all(tx).await?.into_iter().collect())
}

async fn name_answers(
    tx: &mut PgConnection,
    shard: i16,
    rows: &[&EventRow<'_>],
) -> Result<HashMap<Uuid, Emitted>, Fault> {
    let query = sqlx::query(NAME_ANSWERS)
        .bind(shard)
        .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>());
    let answers = query.fetch_all(tx).await?;
    answers.iter().map(|row| Ok((row.try_get(0)?, Emitted::from_code(row.try_get::<i32, _>(1)?.into())))).collect()
}
