//! Moves of timers below one shard.

use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use crate::store::connect::connection::{answered, hold};
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::begin;
use crate::store::fault::Fault;
use crate::store::inbox::timer::MovedShard;
use crate::store::postgres::now_us;

/// The time by which timers are due, and when the first timer of each shard is due.
const FIRST_TIMERS: &str = concat!(
    "SELECT a.shard, f.due_at_us, coalesce($2::int8, ",
    now_us!(),
    ") FROM eventbox_anchor a
CROSS JOIN LATERAL (
    SELECT t.due_at_us FROM eventbox_timer t WHERE t.shard = a.shard ORDER BY t.due_at_us LIMIT 1
) f WHERE a.shard = ANY($1) ORDER BY f.due_at_us, a.shard"
);

/// Rows that another transaction holds stay for the next move.
const LOCK_DUE_TIMERS: &str = "SELECT due_at_us, id FROM eventbox_timer
WHERE shard = $1 AND due_at_us <= $2 ORDER BY due_at_us, id LIMIT $3 FOR UPDATE SKIP LOCKED";

const ADD_MOVED: &str = "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
SELECT shard, recipient, id, name, traceparent, origin, value FROM eventbox_timer
WHERE shard = $1 AND due_at_us BETWEEN $3 AND $4 AND id = ANY($2)";

const REMOVE_MOVED: &str = "DELETE FROM eventbox_timer
WHERE shard = $1 AND due_at_us BETWEEN $3 AND $4 AND id = ANY($2)";

const NEXT_TIMER: &str = "SELECT due_at_us FROM eventbox_timer
WHERE shard = $1 AND due_at_us > $2 ORDER BY due_at_us LIMIT 1";

/// Moves due timers, each shard in a transaction of its own: the timers are locked, added and removed, so that in every
/// snapshot a timer is in its table or in its box.
pub(in crate::store::postgres) async fn move_timers(
    pool: &Pool<Postgres>,
    shards: &[i16],
    limit: i64,
    now_us: Option<i64>,
) -> Result<Vec<MovedShard>, Fault> {
    let query = sqlx::query(FIRST_TIMERS).bind(shards).bind(now_us);
    let found = answered(pool, async { Ok(query.fetch_all(&mut *hold(pool).await?).await?) }).await?;
    let first = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let found: Vec<(i16, i64, i64)> = found.iter().map(first).collect::<Result<_, Fault>>()?;
    let due = found.iter().filter(|(_, due_at_us, now)| due_at_us <= now).count();
    let part = (limit / i64::try_from(due).unwrap_or(i64::MAX).max(1)).max(1);
    let (mut left, mut moved) = (limit, Vec::with_capacity(found.len()));
    for (shard, due_at_us, now) in found {
        moved.push(match due_at_us > now {
            true => MovedShard { shard, moved: 0, next_in_us: Some(due_at_us - now) },
            false if left <= 0 => MovedShard { shard, moved: 0, next_in_us: Some(0) },
            false => move_shard(pool, shard, now, part.min(left)).await?,
        });
        left -= moved.last().map_or(0, |last| last.moved);
    }
    Ok(moved)
}

async fn move_shard(pool: &Pool<Postgres>, shard: i16, now: i64, part: i64) -> Result<MovedShard, Fault> {
    let moving = async {
        let mut tx = begin(pool, Postgres::BEGIN_WRITE, false).await?;
        let (moved, next) = move_in(&mut tx, shard, now, part).await?;
        tx.commit().await?;
        let next_in_us = if moved >= part { Some(0) } else { next.map(|due_at_us| due_at_us - now) };
        Ok(MovedShard { shard, moved, next_in_us })
    };
    answered(pool, moving).await
}

async fn move_in(tx: &mut PgConnection, shard: i16, now: i64, part: i64) -> Result<(i64, Option<i64>), Fault> {
    let locked = sqlx::query(LOCK_DUE_TIMERS).bind(shard).bind(now).bind(part).fetch_all(&mut *tx).await?;
    let (mut due, mut ids) = (Vec::<i64>::with_capacity(locked.len()), Vec::<Uuid>::with_capacity(locked.len()));
    for row in &locked {
        due.push(row.try_get(0)?);
        ids.push(row.try_get(1)?);
    }
    if let (Some(from), Some(until)) = (due.first(), due.last()) {
        for sql in [ADD_MOVED, REMOVE_MOVED] {
            sqlx::query(sql).bind(shard).bind(&ids).bind(from).bind(until).execute(&mut *tx).await?;
        }
    }
    let next = sqlx::query_scalar(NEXT_TIMER).bind(shard).bind(now).fetch_optional(tx).await?;
    Ok((i64::try_from(ids.len()).unwrap_or(i64::MAX), next))
}
