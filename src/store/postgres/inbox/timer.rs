//! Timers on Postgres.

use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::inbox::timer::{MovedShard, TimerDialect};
use crate::store::postgres::{by_shard, now_us};

/// The statement of [`TimerDialect::move_timers`]; its plan must find due timers by the primary key, however many
/// timers are not due.
///
/// One statement: in every snapshot a timer is in its table or in its box, and the transaction that locks its row first
/// takes it. Rows that another transaction holds (another move, a cancellation in an open transaction) stay for the
/// next move. Lateral look-ups, and arrays of the rows to delete, prevent the planner from reading whole shards. Only
/// moved rows are locked: the outer limit stops the scan.
pub(crate) const MOVE_TIMERS: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT coalesce($3::int8, ",
    now_us!(),
    ") AS us), first AS MATERIALIZED (
    SELECT s.shard, f.due_at_us
    FROM unnest((SELECT $1::int2[])) AS s (shard)
    CROSS JOIN LATERAL (
        SELECT t.due_at_us FROM eventbox_timer t WHERE t.shard = s.shard ORDER BY t.due_at_us LIMIT 1
    ) f
), part AS MATERIALIZED (
    SELECT greatest(1, $2 / greatest(1, count(*))) AS size FROM first WHERE due_at_us <= (SELECT us FROM clock)
), due AS MATERIALIZED (
    SELECT t.shard, t.due_at_us, t.id
    FROM (SELECT shard FROM first WHERE due_at_us <= (SELECT us FROM clock) ORDER BY due_at_us, shard) s
    CROSS JOIN LATERAL (
        SELECT x.shard, x.due_at_us, x.id FROM eventbox_timer x
        WHERE x.shard = s.shard AND x.due_at_us <= (SELECT us FROM clock)
        ORDER BY x.due_at_us, x.id LIMIT (SELECT size FROM part) FOR UPDATE SKIP LOCKED
    ) t
    LIMIT $2
), packed AS MATERIALIZED (
    SELECT array_agg(shard) AS shards, array_agg(due_at_us) AS dues, array_agg(id) AS ids FROM due
), taken AS (
    DELETE FROM eventbox_timer t
    USING packed p CROSS JOIN LATERAL unnest(p.shards, p.dues, p.ids) AS u (shard, due_at_us, id)
    WHERE t.shard = u.shard AND t.due_at_us = u.due_at_us AND t.id = u.id
    RETURNING t.shard, t.recipient, t.id, t.name, t.traceparent, t.origin, t.value
), moved AS (
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
    SELECT shard, recipient, id, name, traceparent, origin, value FROM taken
    RETURNING shard
), per_shard AS MATERIALIZED (
    SELECT shard, count(*) AS moved FROM moved GROUP BY shard
)
SELECT f.shard, coalesce(m.moved, 0),
       CASE WHEN m.moved >= (SELECT size FROM part)
                 OR (f.due_at_us <= (SELECT us FROM clock) AND (SELECT sum(moved) FROM per_shard) >= $2)
            THEN 0 ELSE
                coalesce(n.due_at_us, CASE WHEN f.due_at_us > (SELECT us FROM clock) THEN f.due_at_us END)
                - (SELECT us FROM clock) END
FROM first f
LEFT JOIN per_shard m ON m.shard = f.shard
LEFT JOIN LATERAL (
    SELECT t.due_at_us FROM eventbox_timer t
    WHERE f.due_at_us <= (SELECT us FROM clock) AND t.shard = f.shard AND t.due_at_us > (SELECT us FROM clock)
    ORDER BY t.due_at_us LIMIT 1
) n ON true"
);

/// Finds the timers with the ids `$3`, looked up one by one, see [`DELETE_EVENTS`](super::event::DELETE_EVENTS). No row
/// of this table is ever changed either.
macro_rules! among_timers {
    () => {
        "ctid = ANY (ARRAY(
    SELECT t.ctid FROM unnest((SELECT $3::uuid[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT ctid FROM eventbox_timer t WHERE t.shard = $1 AND t.recipient = $2 AND t.id = wanted.id LIMIT 1
    ) t
))"
    };
}
pub(in crate::store::postgres) use among_timers;

const DELETE_TIMERS: &str = concat!("DELETE FROM eventbox_timer WHERE ", among_timers!());

impl TimerDialect for Postgres {
    async fn move_timers(
        pool: &Pool<Self>,
        shards: &[i16],
        limit: i64,
        now_us: Option<i64>,
    ) -> Result<Vec<MovedShard>, Fault> {
        if by_shard::is_on() {
            return by_shard::timer::move_timers(pool, shards, limit, now_us).await;
        }
        let query = sqlx::query(MOVE_TIMERS).bind(shards).bind(limit).bind(now_us);
        let rows = answered(pool, async { Ok(query.fetch_all(&mut *hold(pool).await?).await?) }).await?;
        rows.into_iter()
            .map(|row| Ok(MovedShard { shard: row.try_get(0)?, moved: row.try_get(1)?, next_in_us: row.try_get(2)? }))
            .collect()
    }

    async fn delete_timers(tx: &mut PgConnection, shard: i16, recipient: &str, ids: &[Uuid]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::delete_timers(tx, (shard, recipient), ids).await;
        }
        let query = sqlx::query(DELETE_TIMERS).bind(shard).bind(recipient).bind(ids);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
