//! The outbox below one shard.

use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use super::letters::ids_of_shards;
use super::of_shards;
use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::macros::is_paused;
use crate::store::outgoing::outbox::{
    Claim, ClaimedRow, Longest, MAX_COUNTED_ROWS, OutboxKey, OutboxSample, Reschedule, RowCount, ToDeadLetter,
    row_counts, sampled,
};
use crate::store::postgres::now_us;
use crate::store::postgres::outgoing::outbox::claimed;

/// Number of shards whose delivered messages are deleted at the same time.
const DELETING: usize = 4;

/// The shards from `$1` on that have a due message, by the index on the due time.
const SHARDS_WITH_DUE: &str = concat!(
    "SELECT a.shard FROM eventbox_anchor a WHERE a.shard >= $1 AND (
    SELECT 1 FROM eventbox_outbox o WHERE o.shard = a.shard AND o.next_attempt_at_us <= ",
    now_us!(),
    " LIMIT 1
) IS NOT NULL ORDER BY a.shard"
);

/// The shards that have a message that is not delivered.
const SHARDS_WITH_UNDELIVERED: &str = "SELECT a.shard FROM eventbox_anchor a WHERE a.shard >= $1 AND (
    SELECT 1 FROM eventbox_outbox o WHERE o.shard = a.shard AND o.next_attempt_at_us < 9223372036854775807 LIMIT 1
) IS NOT NULL ORDER BY a.shard";

const CLAIM: &str = concat!(
    "WITH due AS MATERIALIZED (
    SELECT o.id, octet_length(o.payload) AS bytes FROM eventbox_outbox o
    WHERE o.shard = $1 AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND NOT ",
    is_paused!("o"),
    " ORDER BY o.next_attempt_at_us LIMIT $2 FOR UPDATE SKIP LOCKED
), weighed AS (
    SELECT id, row_number() OVER (ROWS UNBOUNDED PRECEDING) AS place,
           sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total FROM due
), fitting AS MATERIALIZED (
    SELECT id FROM weighed WHERE (place = 1 AND $5) OR total <= $4
)
UPDATE eventbox_outbox o SET attempts = o.attempts + 1, next_attempt_at_us = ",
    now_us!(),
    " + $3 FROM fitting WHERE o.shard = $1 AND o.id = fitting.id
RETURNING o.shard, o.id, o.source, o.type, o.attempts, o.payload"
);

const SET_ASIDE: &str = concat!(
    "WITH paused AS MATERIALIZED (
    SELECT o.id FROM eventbox_outbox o WHERE o.shard = $1 AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND ",
    is_paused!("o"),
    " ORDER BY o.next_attempt_at_us LIMIT $3 OFFSET $2 FOR UPDATE SKIP LOCKED
)
UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " + $4 FROM paused WHERE o.shard = $1 AND o.id = paused.id"
);

const RECALL: &str = concat!(
    "WITH ahead AS MATERIALIZED (
    SELECT o.id FROM eventbox_outbox o
    WHERE o.shard = $1 AND o.next_attempt_at_us < 9223372036854775807 AND o.next_attempt_at_us > ",
    now_us!(),
    " + $2 AND o.delivered_at_us IS NULL AND (o.last_code IS NULL OR o.next_attempt_at_us - ",
    now_us!(),
    " > CASE WHEN o.attempts < 30 AND $3 * (1 << o.attempts) < $4 THEN $3 * (1 << o.attempts) ELSE $4 END)
    LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " FROM ahead WHERE o.shard = $1 AND o.id = ahead.id"
);

const LOCK_EXPIRED: &str = concat!(
    "SELECT o.id FROM eventbox_outbox o
WHERE o.shard = $1 AND o.next_attempt_at_us < 9223372036854775807 AND o.delivered_at_us IS NULL
  AND o.created_at_us <= ",
    now_us!(),
    " - $2 AND NOT ",
    is_paused!("o"),
    " ORDER BY o.next_attempt_at_us LIMIT $3 FOR UPDATE SKIP LOCKED"
);

/// The end of a statement that adds dead letters: the last one of a message wins.
macro_rules! last_letter_wins {
    () => {
        " ON CONFLICT (shard, id) DO UPDATE
SET source = excluded.source, type = excluded.type, origin = excluded.origin, code = excluded.code,
    reason = excluded.reason, attempts = excluded.attempts, dead_at_us = excluded.dead_at_us,
    payload = excluded.payload"
    };
}

const BURY_EXPIRED: &str = concat!(
    "INSERT INTO eventbox_dead_letter (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
SELECT shard, id, source, type, origin, 'EXPIRED', concat_ws(': ', last_code, last_error), attempts, ",
    now_us!(),
    ", payload FROM eventbox_outbox WHERE shard = $1 AND id = ANY($2)",
    last_letter_wins!()
);

const LOCK_MINE: &str = "SELECT o.id FROM eventbox_outbox o
JOIN unnest((SELECT $2::uuid[]), $3::int4[]) AS u (id, attempts) ON o.id = u.id AND o.attempts = u.attempts
WHERE o.shard = $1 AND o.delivered_at_us IS NULL FOR UPDATE OF o";

const BURY: &str = concat!(
    "INSERT INTO eventbox_dead_letter (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
SELECT o.shard, o.id, o.source, o.type, o.origin, u.code, u.reason, o.attempts, ",
    now_us!(),
    ", o.payload FROM eventbox_outbox o
JOIN unnest((SELECT $2::uuid[]), $3::text[], $4::text[]) AS u (id, code, reason) ON o.id = u.id
WHERE o.shard = $1 AND o.id = ANY($5)",
    last_letter_wins!()
);

/// As [`DELETE`], and counts the rows of each source and type.
const DELETE_EXPIRED: &str = "WITH gone AS (
    DELETE FROM eventbox_outbox WHERE shard = $1 AND id = ANY($2) RETURNING source, type
)
SELECT source, type, count(*) FROM gone GROUP BY source, type";

/// The deletion commits durably: a setting of the session does not reach the node.
const DELETE: &str = "DELETE FROM eventbox_outbox WHERE shard = $1 AND id = ANY($2)";

const MARK: &str = concat!(
    "UPDATE eventbox_outbox SET next_attempt_at_us = 9223372036854775807, delivered_at_us = ",
    now_us!(),
    " WHERE shard = $1 AND id = ANY($2) AND delivered_at_us IS NULL"
);

const RESCHEDULE: &str = concat!(
    "UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " + u.delay_us, last_code = u.code, last_error = u.error
FROM unnest((SELECT $2::uuid[]), $3::int4[], $4::int8[], $5::text[], $6::text[])
    AS u (id, attempts, delay_us, code, error)
WHERE o.shard = $1 AND o.id = u.id AND o.attempts = u.attempts AND o.delivered_at_us IS NULL"
);

/// The limit is that of each shard.
const OBSERVE: &str = concat!(
    "SELECT least(count(*), $3::int8), coalesce(sum(octet_length(o.payload)), 0)::int8,
       count(*) FILTER (WHERE greatest(",
    now_us!(),
    " - o.created_at_us, 0) BETWEEN $1::int8 - $2 AND $1),
       coalesce(max(greatest(",
    now_us!(),
    " - o.created_at_us, 0)), 0), 0::int8
FROM eventbox_anchor a
CROSS JOIN LATERAL (
    SELECT o.payload, o.created_at_us FROM eventbox_outbox o
    WHERE o.shard = a.shard AND o.next_attempt_at_us < 9223372036854775807 AND o.delivered_at_us IS NULL
    ORDER BY o.next_attempt_at_us LIMIT $3::int8
) o"
);

const COUNT_ALL: &str = "SELECT count(*) FROM (SELECT 1 FROM eventbox_outbox LIMIT $1) AS counted";

/// Claims due messages, shard by shard. Each shard commits by itself. A shard that fails is left out when others have
/// messages.
pub(in crate::store::postgres) async fn claim(conn: &mut PgConnection, claim: Claim) -> Result<Vec<ClaimedRow>, Fault> {
    let (mut rows, mut bytes): (Vec<ClaimedRow>, i64) = (Vec::new(), claim.bytes);
    for shard in shards_with(conn, SHARDS_WITH_DUE, claim.from_shard).await? {
        let left = claim.limit.saturating_sub_unsigned(rows.len() as u64);
        if left <= 0 || bytes <= 0 {
            break;
        }
        let query = sqlx::query(CLAIM).bind(shard).bind(claim.per_shard.min(left)).bind(claim.claim_ttl_us);
        match query.bind(bytes).bind(rows.is_empty()).fetch_all(&mut *conn).await {
            Ok(found) => {
                let found = found.iter().map(claimed).collect::<Result<Vec<_>, Fault>>()?;
                bytes = bytes.saturating_sub_unsigned(found.iter().map(|row| row.payload.len() as u64).sum());
                rows.extend(found);
            }
            Err(error) if rows.is_empty() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(shard, %error, "the messages of a shard cannot be claimed");
                break;
            }
        }
    }
    Ok(rows)
}

async fn shards_with(conn: &mut PgConnection, sql: &'static str, from: i16) -> Result<Vec<i16>, Fault> {
    Ok(sqlx::query_scalar(sql).bind(from).fetch_all(conn).await?)
}

pub(in crate::store::postgres) async fn set_aside(
    conn: &mut PgConnection,
    kept_due: i64,
    per_shard: i64,
    hold_us: i64,
) -> Result<u64, Fault> {
    let mut held = 0;
    for shard in shards_with(conn, SHARDS_WITH_DUE, 0).await? {
        let query = sqlx::query(SET_ASIDE).bind(shard).bind(kept_due).bind(per_shard).bind(hold_us);
        held += query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(held)
}

pub(in crate::store::postgres) async fn recall(
    conn: &mut PgConnection,
    longest: Longest,
    per_shard: i64,
) -> Result<u64, Fault> {
    let mut recalled = 0;
    for shard in shards_with(conn, SHARDS_WITH_UNDELIVERED, 0).await? {
        let query = sqlx::query(RECALL).bind(shard).bind(longest.claim_us).bind(longest.first_pause_us);
        let query = query.bind(longest.pause_us).bind(per_shard);
        recalled += query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(recalled)
}

/// Moves old messages to the dead letters: locks, adds and removes those of each shard.
pub(in crate::store::postgres) async fn expire(
    tx: &mut PgConnection,
    ttl_us: i64,
    per_shard: i64,
) -> Result<Vec<RowCount>, Fault> {
    let mut gone = Vec::new();
    for shard in shards_with(tx, SHARDS_WITH_UNDELIVERED, 0).await? {
        let query = sqlx::query_scalar(LOCK_EXPIRED).bind(shard).bind(ttl_us).bind(per_shard);
        let old: Vec<Uuid> = query.fetch_all(&mut *tx).await?;
        if old.is_empty() {
            continue;
        }
        sqlx::query(BURY_EXPIRED).bind(shard).bind(&old).execute(&mut *tx).await?;
        gone.extend(sqlx::query(DELETE_EXPIRED).bind(shard).bind(old).fetch_all(&mut *tx).await?);
    }
    row_counts(&gone)
}

/// Moves messages to the dead letters that are still ours.
pub(in crate::store::postgres) async fn bury(
    tx: &mut PgConnection,
    rows: &[ToDeadLetter],
) -> Result<Vec<OutboxKey>, Fault> {
    let mut buried = Vec::with_capacity(rows.len());
    for (shard, part) in of_shards(rows, |row| row.key.shard) {
        let ids = || part.iter().map(|(_, row)| row.key.id).collect::<Vec<_>>();
        let attempts = part.iter().map(|(_, row)| row.attempts).collect::<Vec<_>>();
        let query = sqlx::query_scalar(LOCK_MINE).bind(shard).bind(ids()).bind(attempts);
        let mine: Vec<Uuid> = query.fetch_all(&mut *tx).await?;
        let query = sqlx::query(BURY)
            .bind(shard)
            .bind(ids())
            .bind(part.iter().map(|(_, row)| row.code.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.reason.as_str()).collect::<Vec<_>>())
            .bind(&mine);
        query.execute(&mut *tx).await?;
        sqlx::query(DELETE).bind(shard).bind(&mine).execute(&mut *tx).await?;
        buried.extend(mine.into_iter().map(|id| OutboxKey { shard, id }));
    }
    Ok(buried)
}

pub(in crate::store::postgres) async fn delete(pool: &Pool<Postgres>, keys: &[OutboxKey]) -> Result<u64, Fault> {
    leave(pool, DELETE, keys).await
}

pub(in crate::store::postgres) async fn mark(pool: &Pool<Postgres>, keys: &[OutboxKey]) -> Result<u64, Fault> {
    leave(pool, MARK, keys).await
}

/// Runs a statement on the messages of each shard, some shards at once.
async fn leave(pool: &Pool<Postgres>, sql: &'static str, keys: &[OutboxKey]) -> Result<u64, Fault> {
    let leaving = |(shard, ids): (i16, Vec<Uuid>)| {
        answered(pool, async move {
            let query = sqlx::query(sql).bind(shard).bind(ids);
            Ok(query.execute(&mut *hold(pool).await?).await?.rows_affected())
        })
    };
    let left = stream::iter(ids_of_shards(keys)).map(leaving).buffer_unordered(DELETING);
    left.try_fold(0, async |sum, rows| Ok(sum + rows)).await
}

pub(in crate::store::postgres) async fn reschedule(conn: &mut PgConnection, rows: &[Reschedule]) -> Result<u64, Fault> {
    let mut ours = 0;
    for (shard, part) in of_shards(rows, |row| row.key.shard) {
        let query = sqlx::query(RESCHEDULE)
            .bind(shard)
            .bind(part.iter().map(|(_, row)| row.key.id).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.attempts).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.delay_us).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.code.as_str()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.error.as_str()).collect::<Vec<_>>());
        ours += query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(ours)
}

pub(in crate::store::postgres) async fn observe(
    conn: &mut PgConnection,
    ttl_us: i64,
    lead_us: i64,
) -> Result<OutboxSample, Fault> {
    let query = sqlx::query(OBSERVE).bind(ttl_us).bind(lead_us).bind(MAX_COUNTED_ROWS + 1);
    let sample = sampled(&query.fetch_one(&mut *conn).await?)?;
    let all: i64 = sqlx::query(COUNT_ALL).bind(MAX_COUNTED_ROWS + 1).fetch_one(conn).await?.try_get(0)?;
    Ok(OutboxSample { total_rows: all, ..sample })
}
