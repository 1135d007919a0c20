//! The outbox on SQLite.

use serde::Serialize;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Executor, Pool, Row, Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::macros::is_paused;
use crate::store::outgoing::outbox::{
    Claim, ClaimedRow, Longest, MAX_COUNTED_ROWS, OutboxDialect, OutboxKey, OutboxRow, OutboxSample, Reschedule,
    RowCount, ToDeadLetter, row_counts, sampled,
};
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::hex;
use crate::store::sqlite::params::values::{BySize, MAX_ROWS, hundred_rows, ten_rows};
use crate::store::sqlite::writer::statement::{Statement, run_queued};
use crate::store::{BoxFuture, arguments_of};

/// Differs: no arrays, so the rows are parameters.
const INSERT_OUTBOX: BySize = BySize {
    ten: concat!(
        "WITH clock AS MATERIALIZED (SELECT ",
        now_us!(),
        " AS us)
         INSERT INTO eventbox_outbox (shard, id, source, type, origin, payload, created_at_us, next_attempt_at_us)
         SELECT column1, column2, column3, column4, column5, column6, us, us + ? FROM clock, (VALUES ",
        ten_rows!(),
        ") WHERE column2 IS NOT NULL"
    ),
    hundred: concat!(
        "WITH clock AS MATERIALIZED (SELECT ",
        now_us!(),
        " AS us)
         INSERT INTO eventbox_outbox (shard, id, source, type, origin, payload, created_at_us, next_attempt_at_us)
         SELECT column1, column2, column3, column4, column5, column6, us, us + ? FROM clock, (VALUES ",
        hundred_rows!(),
        ") WHERE column2 IS NOT NULL"
    ),
    most: concat!(
        "WITH clock AS MATERIALIZED (SELECT ",
        now_us!(),
        " AS us)
         INSERT INTO eventbox_outbox (shard, id, source, type, origin, payload, created_at_us, next_attempt_at_us)
         SELECT column1, column2, column3, column4, column5, column6, us, us + ? FROM clock, (VALUES ",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ") WHERE column2 IS NOT NULL"
    ),
};

/// Differs: no LATERAL, so an array packs the ids of each shard. No SKIP LOCKED, because there is one writer.
pub(crate) const CLAIM_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox SET attempts = attempts + 1, next_attempt_at_us = ",
    now_us!(),
    " + $4 WHERE (shard, id) IN (
        SELECT shard, id FROM (
            SELECT shard, id, row_number() OVER (ROWS UNBOUNDED PRECEDING) AS place,
                   sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total
            FROM (
                SELECT s.value AS shard, unhex(i.value ->> 0) AS id, i.value ->> 1 AS bytes
                FROM json_each($1) s, json_each((
                    SELECT json_group_array(json_array(hex(id), octet_length(payload))) FROM (
                        SELECT o.id, o.payload FROM eventbox_outbox o
                        WHERE o.shard = s.value AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND NOT ",
    is_paused!("o"),
    "                   ORDER BY o.next_attempt_at_us LIMIT $2 + 0
                    )
                )) i LIMIT $3 + 0
            )
        ) WHERE place = 1 OR total <= $5
    ) RETURNING shard, id, source, type, attempts, payload"
);

/// The rows that `json_each($1)` names.
macro_rules! named_rows {
    () => {
        "(shard, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM json_each($1))"
    };
}

const DELETE_OUTBOX: &str = concat!("DELETE FROM eventbox_outbox WHERE ", named_rows!());

const DELETE_EXPIRED: &str = concat!("DELETE FROM eventbox_outbox WHERE ", named_rows!(), " RETURNING source, type, 1");

const MARK_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox SET next_attempt_at_us = 9223372036854775807, delivered_at_us = ",
    now_us!(),
    " WHERE delivered_at_us IS NULL AND ",
    named_rows!()
);

/// Differs: as [`CLAIM_OUTBOX`].
pub(crate) const SET_ASIDE_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox SET next_attempt_at_us = ",
    now_us!(),
    " + $4 WHERE (shard, id) IN (
        SELECT s.value, unhex(i.value) FROM json_each($1) s, json_each((
            SELECT json_group_array(hex(id)) FROM (
                SELECT o.id FROM eventbox_outbox o WHERE o.shard = s.value AND o.next_attempt_at_us <= ",
    now_us!(),
    " AND ",
    is_paused!("o"),
    "           ORDER BY o.next_attempt_at_us LIMIT $3 + 0 OFFSET $2 + 0
            )
        )) i
    )"
);

/// Differs: as [`CLAIM_OUTBOX`].
pub(crate) const RECALL_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox SET next_attempt_at_us = ",
    now_us!(),
    " WHERE (shard, id) IN (
        SELECT s.value, unhex(i.value) FROM json_each($1) s, json_each((
            SELECT json_group_array(hex(id)) FROM (
                SELECT id FROM eventbox_outbox
                WHERE shard = s.value AND next_attempt_at_us < 9223372036854775807 AND next_attempt_at_us > ",
    now_us!(),
    " + $2 AND delivered_at_us IS NULL AND (last_code IS NULL OR next_attempt_at_us - ",
    now_us!(),
    " > CASE WHEN attempts < 30 AND $3 * (1 << attempts) < $4 THEN $3 * (1 << attempts) ELSE $4 END)
                LIMIT $5 + 0
            )
        )) i
    )"
);

/// Differs: as [`CLAIM_OUTBOX`]. A row that is kept after its delivery is due at the end of time.
pub(crate) const FIND_EXPIRED: &str = concat!(
    "SELECT s.value, unhex(i.value) FROM json_each($1) s, json_each((
         SELECT json_group_array(hex(id)) FROM (
             SELECT o.id FROM eventbox_outbox o
             WHERE o.shard = s.value AND o.next_attempt_at_us < 9223372036854775807
               AND o.delivered_at_us IS NULL AND o.created_at_us <= ",
    now_us!(),
    "          - $2 AND NOT ",
    is_paused!("o"),
    "        ORDER BY o.next_attempt_at_us LIMIT $3 + 0
         )
     )) i"
);

/// Differs: no LATERAL. CROSS JOIN reads the shards first, so that each shard is looked up in the index.
pub(crate) const OBSERVE_OUTBOX: &str = concat!(
    "SELECT count(*), coalesce(sum(bytes), 0), count(*) FILTER (WHERE age_us BETWEEN $1 - $2 AND $1),
            coalesce(max(age_us), 0),
            (SELECT count(*) FROM (SELECT 1 FROM eventbox_outbox ORDER BY shard, id LIMIT $3 + 0))
     FROM (
         SELECT length(o.payload) AS bytes, max(",
    now_us!(),
    " - o.created_at_us, 0) AS age_us
         FROM json_each($4) s CROSS JOIN eventbox_outbox o INDEXED BY eventbox_outbox_due
             ON o.shard = s.value AND o.next_attempt_at_us < 9223372036854775807
         WHERE o.delivered_at_us IS NULL LIMIT $3 + 0
     )"
);

const RESCHEDULE_OUTBOX: &str = concat!(
    "UPDATE eventbox_outbox AS o SET next_attempt_at_us = ",
    now_us!(),
    " + u.delay_us, last_code = u.code, last_error = u.error
     FROM (SELECT value ->> 0 AS shard, unhex(value ->> 1) AS id, value ->> 2 AS attempts, value ->> 3 AS delay_us,
                  value ->> 4 AS code, value ->> 5 AS error FROM json_each($1)) AS u
     WHERE o.shard = u.shard AND o.id = u.id AND o.attempts = u.attempts AND o.delivered_at_us IS NULL"
);

/// Differs: a CTE cannot write, so this is two statements in the caller's transaction; [`DELETE_BURIED`] is the second.
const BURY_OUTBOX: &str = concat!(
    "INSERT OR REPLACE INTO eventbox_dead_letter
        (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
     SELECT o.shard, o.id, o.source, o.type, o.origin, u.value ->> 3, u.value ->> 4, o.attempts, ",
    now_us!(),
    ", o.payload FROM json_each($1) u JOIN eventbox_outbox o
         ON o.shard = u.value ->> 0 AND o.id = unhex(u.value ->> 1) AND o.attempts = u.value ->> 2
     WHERE o.delivered_at_us IS NULL RETURNING shard, id"
);

const DELETE_BURIED: &str = "DELETE FROM eventbox_outbox WHERE delivered_at_us IS NULL AND (shard, id, attempts) IN (
    SELECT value ->> 0, unhex(value ->> 1), value ->> 2 FROM json_each($1)
)";

impl OutboxDialect for Sqlite {
    const INSERT_WORKERS: usize = 1;
    const WRITERS: usize = 1;

    fn insert_outbox<'e, E>(executor: E, row: &OutboxRow<'_>, claim_ttl_us: i64) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e,
    {
        let insert = insert_of(std::slice::from_ref(row), claim_ttl_us);
        Box::pin(async move {
            let (sql, arguments) = insert?;
            sqlx::query_with::<Self, _>(sql, arguments).execute(executor).await?;
            Ok(())
        })
    }

    async fn insert_outbox_in(
        tx: &mut SqliteConnection,
        rows: &[OutboxRow<'_>],
        claim_ttl_us: i64,
    ) -> Result<(), Fault> {
        Insert::of(rows, claim_ttl_us)?.run(tx).await
    }

    // Differs, here and below: statements that arrive during a write commit together.
    async fn insert_outbox_on_pool(pool: &Pool<Self>, rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> Result<(), Fault> {
        run_queued(pool, Insert::of(rows, claim_ttl_us)?).await
    }

    async fn claim_outbox(conn: &mut SqliteConnection, claim: Claim) -> Result<Vec<ClaimedRow>, Fault> {
        let shards = json((claim.from_shard..=255).collect::<Vec<_>>())?;
        let query = sqlx::query(CLAIM_OUTBOX)
            .bind(shards)
            .bind(claim.per_shard)
            .bind(claim.limit)
            .bind(claim.claim_ttl_us)
            .bind(claim.bytes);
        query.fetch_all(conn).await?.iter().map(claimed).collect()
    }

    async fn set_aside_outbox(
        conn: &mut SqliteConnection,
        kept_due: i64,
        per_shard: i64,
        hold_us: i64,
    ) -> Result<u64, Fault> {
        let query = sqlx::query(SET_ASIDE_OUTBOX).bind(all_shards()?).bind(kept_due).bind(per_shard);
        Ok(query.bind(hold_us).execute(conn).await?.rows_affected())
    }

    async fn recall_outbox(conn: &mut SqliteConnection, longest: Longest, per_shard: i64) -> Result<u64, Fault> {
        let query = sqlx::query(RECALL_OUTBOX).bind(json((0..=255).collect::<Vec<_>>())?).bind(longest.claim_us);
        let query = query.bind(longest.first_pause_us).bind(longest.pause_us).bind(per_shard);
        Ok(query.execute(conn).await?.rows_affected())
    }

    async fn delete_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> Result<u64, Fault> {
        run_queued(pool, Settle { sql: DELETE_OUTBOX, keys: json_keys(keys)? }).await
    }

    async fn mark_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> Result<u64, Fault> {
        run_queued(pool, Settle { sql: MARK_OUTBOX, keys: json_keys(keys)? }).await
    }

    async fn reschedule_outbox(conn: &mut SqliteConnection, rows: &[Reschedule]) -> Result<u64, Fault> {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.key.shard, hex(row.key.id), row.attempts, row.delay_us, &row.code, &row.error))
            .collect();
        let query = sqlx::query(RESCHEDULE_OUTBOX);
        Ok(query.bind(json(rows)?).execute(conn).await?.rows_affected())
    }

    // Differs: two statements.
    async fn move_to_dead_letters(tx: &mut SqliteConnection, rows: &[ToDeadLetter]) -> Result<Vec<OutboxKey>, Fault> {
        let rows = json(
            rows.iter()
                .map(|row| (row.key.shard, hex(row.key.id), row.attempts, &row.code, &row.reason))
                .collect::<Vec<_>>(),
        )?;
        let buried = sqlx::query(BURY_OUTBOX).bind(&rows).fetch_all(&mut *tx).await?;
        sqlx::query(DELETE_BURIED).bind(&rows).execute(tx).await?;
        buried.iter().map(|row| Ok(OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? })).collect()
    }

    // Differs: as above.
    async fn expire_outbox(tx: &mut SqliteConnection, ttl_us: i64, per_shard: i64) -> Result<Vec<RowCount>, Fault> {
        let query = sqlx::query(FIND_EXPIRED).bind(all_shards()?).bind(ttl_us).bind(per_shard);
        let rows = query.fetch_all(&mut *tx).await?;
        let keys: Result<Vec<_>, sqlx::Error> =
            rows.iter().map(|row| Ok(OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? })).collect();
        let keys = json_keys(&keys?)?;
        let query = sqlx::query(concat!(
            "INSERT OR REPLACE INTO eventbox_dead_letter
                (shard, id, source, type, origin, code, reason, attempts, dead_at_us, payload)
             SELECT shard, id, source, type, origin, 'EXPIRED', concat_ws(': ', last_code, last_error), attempts, ",
            now_us!(),
            ", payload FROM eventbox_outbox WHERE ",
            named_rows!()
        ));
        query.bind(&keys).execute(&mut *tx).await?;
        row_counts(&sqlx::query(DELETE_EXPIRED).bind(&keys).fetch_all(tx).await?)
    }

    async fn observe_outbox(conn: &mut SqliteConnection, ttl_us: i64, lead_us: i64) -> Result<OutboxSample, Fault> {
        let query = sqlx::query(OBSERVE_OUTBOX).bind(ttl_us).bind(lead_us).bind(MAX_COUNTED_ROWS + 1);
        sampled(&query.bind(all_shards()?).fetch_one(conn).await?)
    }
}

fn all_shards() -> Result<String, sqlx::Error> {
    json((0..=255).collect::<Vec<i16>>())
}

/// Messages to insert.
#[derive(Clone)]
struct Insert(Vec<(&'static str, SqliteArguments)>);

impl Insert {
    fn of(rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> Result<Self, Fault> {
        rows.chunks(MAX_ROWS).map(|rows| insert_of(rows, claim_ttl_us)).collect::<Result<_, _>>().map(Insert)
    }
}

impl Statement for Insert {
    type Answer = ();

    fn is_atomic(&self) -> bool {
        self.0.len() <= 1
    }

    async fn run(self, conn: &mut SqliteConnection) -> Result<(), Fault> {
        for (sql, arguments) in self.0 {
            sqlx::query_with::<Sqlite, _>(sql, arguments).execute(&mut *conn).await?;
        }
        Ok(())
    }
}

/// Returns the statement for up to [`MAX_ROWS`] rows.
fn insert_of(rows: &[OutboxRow<'_>], claim_ttl_us: i64) -> Result<(&'static str, SqliteArguments), Fault> {
    let sql = INSERT_OUTBOX.of(rows.len());
    let query = rows.iter().fold(sqlx::query::<Sqlite>(sql).bind(claim_ttl_us), |query, row| {
        query.bind(row.shard).bind(row.id).bind(row.source).bind(row.r#type).bind(row.origin).bind(row.payload)
    });
    Ok((sql, arguments_of(query)?))
}

/// Messages that need no delivery any more.
#[derive(Clone)]
struct Settle {
    sql: &'static str,
    keys: String,
}

impl Statement for Settle {
    type Answer = u64;

    async fn run(self, conn: &mut SqliteConnection) -> Result<u64, Fault> {
        Ok(sqlx::query(self.sql).bind(self.keys).execute(conn).await?.rows_affected())
    }
}

pub(in crate::store::sqlite) fn json_keys(keys: &[OutboxKey]) -> Result<String, sqlx::Error> {
    json(keys.iter().map(|key| (key.shard, hex(key.id))).collect::<Vec<_>>())
}

fn json(values: impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(&values).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn claimed(row: &SqliteRow) -> Result<ClaimedRow, Fault> {
    Ok(ClaimedRow {
        key: OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? },
        source: row.try_get(2)?,
        r#type: row.try_get(3)?,
        attempts: row.try_get(4)?,
        payload: row.try_get(5)?,
    })
}
