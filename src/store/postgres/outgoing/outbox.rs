//! The outbox on Postgres.

use sqlx::postgres::PgRow;
use sqlx::{Executor, PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::macros::is_paused;
use crate::store::outgoing::outbox::{
    Claim, ClaimedRow, Longest, MAX_COUNTED_ROWS, OutboxDialect, OutboxKey, OutboxRow, OutboxSample, Reschedule,
    RowCount, ToDeadLetter, row_counts, sampled,
};
use crate::store::postgres::{by_shard, now_us};
use crate::store::{BoxFuture, arguments_of};

/// The statement reads the time once and not per row: a reading costs as much as an insert into an index.
const INSERT_OUTBOX: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_us!(),
    " AS us)
     INSERT INTO eventbox_outbox (shard, id, source, type, origin, created_at_us, next_attempt_at_us, payload)
     SELECT u.shard, u.id, u.source, u.type, u.origin, clock.us, clock.us + $6, u.payload
     FROM unnest((SELECT $1::int2[]), $2::uuid[], $3::text[], $4::text[], $5::bytea[], $7::text[])
          AS u (shard, id, source, type, payload, origin), clock"
);

/// The statement of [`OutboxDialect::claim_outbox`]; its plan must find the due rows of each shard by
/// `eventbox_outbox_due`.
///
/// The time is the start of the statement, because an index cannot look up a time that moves during the statement.
pub(crate) const CLAIM_OUTBOX: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    now_us!(),
    " AS us), due AS MATERIALIZED (
    SELECT d.shard, d.id, d.bytes FROM generate_series($1::int4, 255) AS s (shard)
    CROSS JOIN LATERAL (
        SELECT o.shard, o.id, octet_length(o.payload) AS bytes FROM eventbox_outbox o
        WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND NOT ",
    is_paused!("o"),
    "   ORDER BY o.next_attempt_at_us LIMIT $2 FOR UPDATE SKIP LOCKED
    ) d LIMIT $3
), weighed AS (
    SELECT shard, id, row_number() OVER (ROWS UNBOUNDED PRECEDING) AS place,
           sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total FROM due
), fitting AS MATERIALIZED (
    SELECT shard, id FROM weighed WHERE place = 1 OR total <= $5
)
UPDATE eventbox_outbox o SET attempts = o.attempts + 1, next_attempt_at_us = clock.us + $4 FROM fitting, clock
WHERE o.shard = fitting.shard AND o.id = fitting.id
 RETURNING o.shard, o.id, o.source, o.type, o.attempts, o.payload"
);

/// The statement of [`OutboxDialect::set_aside_outbox`].
pub(crate) const SET_ASIDE_OUTBOX: &str = concat!(
    "WITH paused AS MATERIALIZED (
         SELECT d.shard, d.id FROM generate_series(0, 255) AS s (shard)
         CROSS JOIN LATERAL (
             SELECT o.shard, o.id FROM eventbox_outbox o
             WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND ",
    is_paused!("o"),
    "        ORDER BY o.next_attempt_at_us LIMIT $2 OFFSET $1 FOR UPDATE SKIP LOCKED
         ) d
     )
     UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " + $3 FROM paused WHERE o.shard = paused.shard AND o.id = paused.id"
);

/// The statement of [`OutboxDialect::recall_outbox`]; it reads rows that are due far ahead, by the index on the due
/// time.
pub(crate) const RECALL_OUTBOX: &str = concat!(
    "WITH ahead AS MATERIALIZED (
         SELECT d.shard, d.id FROM generate_series(0, 255) AS s (shard)
         CROSS JOIN LATERAL (
             SELECT o.shard, o.id FROM eventbox_outbox o
             WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us < 9223372036854775807
               AND o.next_attempt_at_us > ",
    now_us!(),
    " + $1 AND o.delivered_at_us IS NULL
               AND (o.last_code IS NULL OR o.next_attempt_at_us - ",
    now_us!(),
    " > CASE WHEN o.attempts < 30 AND $2 * (1 << o.attempts) < $3 THEN $2 * (1 << o.attempts) ELSE $3 END)
             LIMIT $4 FOR UPDATE SKIP LOCKED
         ) d
     )
     UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " FROM ahead WHERE o.shard = ahead.shard AND o.id = ahead.id"
);

/// The statement of [`OutboxDialect::expire_outbox`]. A row that is kept after its delivery is due at the end of time,
/// so the index on the due time finds the undelivered rows behind any number of kept rows.
pub(crate) const EXPIRE_OUTBOX: &str = concat!(
    "WITH old AS MATERIALIZED (
         SELECT d.shard, d.id FROM generate_series(0, 255) AS s (shard)
         CROSS JOIN LATERAL (
             SELECT o.shard, o.id FROM eventbox_outbox o
             WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us < 9223372036854775807
               AND o.delivered_at_us IS NULL AND o.created_at_us <= ",
    now_us!(),
    " - $1 AND NOT ",
    is_paused!("o"),
    "        ORDER BY o.next_attempt_at_us LIMIT $2 FOR UPDATE SKIP LOCKED
         ) d
     ), gone AS (
         DELETE FROM eventbox_outbox o USING old WHERE o.shard = old.shard AND o.id = old.id
         RETURNING o.shard, o.id, o.source, o.type, o.origin, o.last_code, o.last_error, o.attempts, o.payload
     ), buried AS (
         INSERT INTO eventbox_dead_letter
             (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
         SELECT shard, id, source, type, origin, 'EXPIRED', concat_ws(': ', last_code, last_error), attempts, ",
    now_us!(),
    ", payload FROM gone
         ON CONFLICT (shard, id) DO UPDATE
         SET source = excluded.source, type = excluded.type, origin = excluded.origin, code = excluded.code,
             reason = excluded.reason, attempts = excluded.attempts, dead_at_us = excluded.dead_at_us,
             payload = excluded.payload
         RETURNING source, type
     )
     SELECT source, type, count(*) FROM buried GROUP BY source, type"
);

/// The statement of [`OutboxDialect::observe_outbox`]; it finds the undelivered rows as [`EXPIRE_OUTBOX`] does.
pub(crate) const OBSERVE_OUTBOX: &str = concat!(
    "SELECT count(*), coalesce(sum(bytes), 0)::int8, count(*) FILTER (WHERE age_us BETWEEN $1::int8 - $2 AND $1),
            coalesce(max(age_us), 0),
            (SELECT count(*) FROM (SELECT 1 FROM eventbox_outbox ORDER BY shard, id LIMIT $3) AS counted)
     FROM (
         SELECT octet_length(o.payload) AS bytes, greatest(",
    now_us!(),
    " - o.created_at_us, 0) AS age_us
         FROM generate_series(0, 255) AS s (shard)
         CROSS JOIN LATERAL (
             SELECT o.payload, o.created_at_us FROM eventbox_outbox o
             WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us < 9223372036854775807 AND o.delivered_at_us IS NULL
             ORDER BY o.next_attempt_at_us LIMIT $3
         ) o LIMIT $3
     ) AS undelivered"
);

/// The setting is local to the transaction, which is this statement.
const DELETE_OUTBOX: &str = "DELETE FROM eventbox_outbox o
    USING unnest((SELECT $1::int2[]), $2::uuid[]) AS u (shard, id),
          (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
    WHERE o.shard = u.shard AND o.id = u.id";

/// As [`DELETE_OUTBOX`].
const MARK_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox o SET next_attempt_at_us = 9223372036854775807, delivered_at_us = ",
    now_us!(),
    " FROM unnest((SELECT $1::int2[]), $2::uuid[]) AS u (shard, id),
        (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
     WHERE o.shard = u.shard AND o.id = u.id AND o.delivered_at_us IS NULL"
);

const RESCHEDULE_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox o SET next_attempt_at_us = ",
    now_us!(),
    " + u.delay_us, last_code = u.code, last_error = u.error
     FROM unnest((SELECT $1::int2[]), $2::uuid[], $3::int4[], $4::int8[], $5::text[], $6::text[])
          AS u (shard, id, attempts, delay_us, code, error)
     WHERE o.shard = u.shard AND o.id = u.id AND o.attempts = u.attempts AND o.delivered_at_us IS NULL"
);

const BURY_OUTBOX: &str = concat!(
    "WITH gone AS (
         DELETE FROM eventbox_outbox o
         USING unnest((SELECT $1::int2[]), $2::uuid[], $3::int4[], $4::text[], $5::text[])
               AS u (shard, id, attempts, code, reason)
         WHERE o.shard = u.shard AND o.id = u.id AND o.attempts = u.attempts AND o.delivered_at_us IS NULL
         RETURNING o.shard, o.id, o.source, o.type, o.origin, u.code, u.reason, o.attempts, o.payload
     )
     INSERT INTO eventbox_dead_letter (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
     SELECT shard, id, source, type, origin, code, reason, attempts, ",
    now_us!(),
    ", payload FROM gone
     ON CONFLICT (shard, id) DO UPDATE
     SET source = excluded.source, type = excluded.type, origin = excluded.origin, code = excluded.code,
         reason = excluded.reason, attempts = excluded.attempts, dead_at_us = excluded.dead_at_us,
         payload = excluded.payload RETURNING shard, id"
);

impl OutboxDialect for Postgres {
    const INSERT_WORKERS: usize = 4;
    const WRITERS: usize = usize::MAX;

    fn insert_outbox<'e, E>(executor: E, row: &OutboxRow<'_>, claim_ttl_us: i64) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e,
    {
        if by_shard::is_on() {
            return by_shard::messages::insert(executor, row, claim_ttl_us);
        }
        insert(executor, std::slice::from_ref(row), claim_ttl_us)
    }

    async fn insert_outbox_in(tx: &mut PgConnection, rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> Result<(), Fault> {
        if by_shard::is_on() {
            return by_shard::messages::insert_all(tx, rows, claim_ttl_us).await;
        }
        insert(tx, rows, claim_ttl_us).await
    }

    async fn insert_outbox_on_pool(pool: &Pool<Self>, rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> Result<(), Fault> {
        if by_shard::is_on() {
            return by_shard::messages::insert_on_pool(pool, rows, claim_ttl_us).await;
        }
        let storing = async {
            let mut conn = hold(pool).await?;
            let done = insert(&mut *conn, rows, claim_ttl_us).await;
            conn.close_if_unfit(done)
        };
        answered(pool, storing).await
    }

    async fn claim_outbox(conn: &mut PgConnection, claim: Claim) -> Result<Vec<ClaimedRow>, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::claim(conn, claim).await;
        }
        let query = sqlx::query(CLAIM_OUTBOX);
        let query = query
            .bind(i32::from(claim.from_shard))
            .bind(claim.per_shard)
            .bind(claim.limit)
            .bind(claim.claim_ttl_us)
            .bind(claim.bytes);
        query.fetch_all(conn).await?.iter().map(claimed).collect()
    }

    async fn set_aside_outbox(
        conn: &mut PgConnection,
        kept_due: i64,
        per_shard: i64,
        hold_us: i64,
    ) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::set_aside(conn, kept_due, per_shard, hold_us).await;
        }
        let query = sqlx::query(SET_ASIDE_OUTBOX).bind(kept_due).bind(per_shard).bind(hold_us);
        Ok(query.execute(conn).await?.rows_affected())
    }

    async fn recall_outbox(conn: &mut PgConnection, longest: Longest, per_shard: i64) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::recall(conn, longest, per_shard).await;
        }
        let query = sqlx::query(RECALL_OUTBOX).bind(longest.claim_us).bind(longest.first_pause_us);
        Ok(query.bind(longest.pause_us).bind(per_shard).execute(conn).await?.rows_affected())
    }

    async fn delete_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::delete(pool, keys).await;
        }
        let (shards, ids) = columns(keys);
        let query = sqlx::query(DELETE_OUTBOX).bind(shards).bind(ids);
        answered(pool, async { Ok(query.execute(&mut *hold(pool).await?).await?.rows_affected()) }).await
    }

    async fn mark_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::mark(pool, keys).await;
        }
        let (shards, ids) = columns(keys);
        let query = sqlx::query(MARK_OUTBOX).bind(shards).bind(ids);
        answered(pool, async { Ok(query.execute(&mut *hold(pool).await?).await?.rows_affected()) }).await
    }

    async fn reschedule_outbox(conn: &mut PgConnection, rows: &[Reschedule]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::reschedule(conn, rows).await;
        }
        let query = sqlx::query(RESCHEDULE_OUTBOX);
        let query = query
            .bind(rows.iter().map(|row| row.key.shard).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.key.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.attempts).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.delay_us).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.code.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.error.as_str()).collect::<Vec<_>>());
        Ok(query.execute(conn).await?.rows_affected())
    }

    async fn move_to_dead_letters(tx: &mut PgConnection, rows: &[ToDeadLetter]) -> Result<Vec<OutboxKey>, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::bury(tx, rows).await;
        }
        let query = sqlx::query(BURY_OUTBOX);
        let query = query
            .bind(rows.iter().map(|row| row.key.shard).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.key.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.attempts).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.code.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.reason.as_str()).collect::<Vec<_>>());
        let buried = query.fetch_all(tx).await?;
        buried.iter().map(|row| Ok(OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? })).collect()
    }

    async fn expire_outbox(tx: &mut PgConnection, ttl_us: i64, per_shard: i64) -> Result<Vec<RowCount>, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::expire(tx, ttl_us, per_shard).await;
        }
        row_counts(&sqlx::query(EXPIRE_OUTBOX).bind(ttl_us).bind(per_shard).fetch_all(tx).await?)
    }

    async fn observe_outbox(conn: &mut PgConnection, ttl_us: i64, lead_us: i64) -> Result<OutboxSample, Fault> {
        if by_shard::is_on() {
            return by_shard::outbox::observe(conn, ttl_us, lead_us).await;
        }
        let query = sqlx::query(OBSERVE_OUTBOX).bind(ttl_us).bind(lead_us).bind(MAX_COUNTED_ROWS + 1);
        sampled(&query.fetch_one(conn).await?)
    }
}

fn insert<'e, E>(executor: E, rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> BoxFuture<'e, Result<(), Fault>>
where
    E: Executor<'e, Database = Postgres> + 'e,
{
    let query = sqlx::query::<Postgres>(INSERT_OUTBOX)
        .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.source).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.r#type).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload).collect::<Vec<_>>())
        .bind(claim_ttl_us)
        .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>());
    let arguments = arguments_of(query);
    Box::pin(async move {
        sqlx::query_with::<Postgres, _>(INSERT_OUTBOX, arguments?).execute(executor).await?;
        Ok(())
    })
}

pub(in crate::store::postgres) fn columns(keys: &[OutboxKey]) -> (Vec<i16>, Vec<Uuid>) {
    keys.iter().map(|key| (key.shard, key.id)).unzip()
}

pub(in crate::store::postgres) fn claimed(row: &PgRow) -> Result<ClaimedRow, Fault> {
    Ok(ClaimedRow {
        key: OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? },
        source: row.try_get(2)?,
        r#type: row.try_get(3)?,
        attempts: row.try_get(4)?,
        payload: row.try_get(5)?,
    })
}
