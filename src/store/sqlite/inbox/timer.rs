//! Timers on SQLite.

use sqlx::{Pool, Row, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::connect::connection::hold;
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::begin;
use crate::store::fault::Fault;
use crate::store::inbox::timer::{MovedShard, TimerDialect};
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::ids_json;

/// Differs: a CTE cannot write, so a move is several statements in one write transaction. The transaction begins only
/// when a timer is due.
///
/// Time until the first timer of each shard is due. Not above 0 when it is due.
pub(crate) const FIRST_TIMERS: &str = concat!(
    "SELECT shard, due_at_us - coalesce($2, ",
    now_us!(),
    ") FROM (
    SELECT s.value AS shard,
           (SELECT t.due_at_us FROM eventbox_timer t WHERE t.shard = s.value ORDER BY t.due_at_us LIMIT 1) AS due_at_us
    FROM json_each($1) s
) WHERE due_at_us IS NOT NULL ORDER BY due_at_us, shard"
);

/// The last timer that the move takes from a shard, and the number of timers up to it.
pub(crate) const DUE_TIMERS: &str = concat!(
    "SELECT due_at_us, id, count(*) OVER () FROM (
    SELECT due_at_us, id FROM eventbox_timer WHERE shard = $1 AND due_at_us <= coalesce($3, ",
    now_us!(),
    ") ORDER BY due_at_us, id LIMIT $2 + 0
) ORDER BY due_at_us DESC, id DESC LIMIT 1"
);

/// No other transaction writes meanwhile, so these are the counted timers.
pub(crate) const COPY_TIMERS: &str =
    "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
 SELECT shard, recipient, id, name, traceparent, origin, value FROM eventbox_timer
 WHERE shard = $1 AND (due_at_us, id) <= ($2, $3) ORDER BY recipient, id";

pub(crate) const DELETE_MOVED_TIMERS: &str =
    "DELETE FROM eventbox_timer WHERE shard = $1 AND (due_at_us, id) <= ($2, $3)";

const DELETE_TIMERS: &str = "DELETE FROM eventbox_timer WHERE shard = $1 AND recipient = $2
 AND id IN (SELECT unhex(value) FROM json_each($3))";

impl TimerDialect for Sqlite {
    async fn move_timers(
        pool: &Pool<Self>,
        shards: &[i16],
        limit: i64,
        now_us: Option<i64>,
    ) -> Result<Vec<MovedShard>, Fault> {
        let shards = serde_json::to_string(shards).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let first = first_timers(&mut *hold(pool).await?, &shards, now_us).await?;
        if !first.iter().any(is_due) {
            return Ok(first);
        }
        let mut tx = begin(pool, Self::BEGIN_WRITE, false).await?;
        let first = first_timers(&mut tx, &shards, now_us).await?;
        let due: Vec<i16> = first.iter().filter(|shard| is_due(shard)).map(|shard| shard.shard).collect();
        let part = (limit / i64::try_from(due.len().max(1)).unwrap_or(i64::MAX)).max(1);
        let mut counts = Vec::with_capacity(due.len());
        let mut left = limit;
        for shard in due {
            let moved = if left > 0 { move_shard(&mut tx, shard, part.min(left), now_us).await? } else { 0 };
            left -= moved;
            counts.push((shard, moved));
        }
        let mut after = first_timers(&mut tx, &shards, now_us).await?;
        tx.commit().await?;
        for (shard, moved) in counts {
            let place = match after.iter().position(|row| row.shard == shard) {
                Some(place) => place,
                None => {
                    after.push(MovedShard { shard, moved: 0, next_in_us: None });
                    after.len() - 1
                }
            };
            if let Some(row) = after.get_mut(place) {
                row.moved = moved;
                // A move at its limit has not read the timers behind those that it took.
                row.next_in_us = if moved >= part || left <= 0 { Some(0) } else { row.next_in_us };
            }
        }
        for row in &mut after {
            row.next_in_us = row.next_in_us.map(|wait| wait.max(0));
        }
        Ok(after)
    }

    async fn delete_timers(tx: &mut SqliteConnection, shard: i16, recipient: &str, ids: &[Uuid]) -> Result<u64, Fault> {
        let query = sqlx::query(DELETE_TIMERS).bind(shard).bind(recipient).bind(ids_json(ids)?);
        Ok(query.execute(tx).await?.rows_affected())
    }
}

fn is_due(shard: &MovedShard) -> bool {
    shard.next_in_us.is_some_and(|wait| wait <= 0)
}

async fn first_timers(
    conn: &mut SqliteConnection,
    shards: &str,
    now_us: Option<i64>,
) -> Result<Vec<MovedShard>, Fault> {
    let rows = sqlx::query(FIRST_TIMERS).bind(shards).bind(now_us).fetch_all(conn).await?;
    rows.into_iter()
        .map(|row| Ok(MovedShard { shard: row.try_get(0)?, moved: 0, next_in_us: Some(row.try_get(1)?) }))
        .collect()
}

async fn move_shard(tx: &mut SqliteConnection, shard: i16, limit: i64, now_us: Option<i64>) -> Result<i64, Fault> {
    let last = sqlx::query(DUE_TIMERS).bind(shard).bind(limit).bind(now_us).fetch_optional(&mut *tx).await?;
    let Some(last) = last else { return Ok(0) };
    let (due_at_us, id, moved): (i64, Uuid, i64) = (last.try_get(0)?, last.try_get(1)?, last.try_get(2)?);
    for sql in [COPY_TIMERS, DELETE_MOVED_TIMERS] {
        sqlx::query::<Sqlite>(sql).bind(shard).bind(due_at_us).bind(id).execute(&mut *tx).await?;
    }
    Ok(moved)
}
