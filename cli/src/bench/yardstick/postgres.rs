//! The yardsticks on Postgres.

use std::time::Instant;

use eventbox::{Event, Recipient};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{Executor, PgConnection, PgPool, Pool, Postgres, Row as _};

use super::library_calls;
use crate::bench::HANG_GUARD;
use crate::bench::engine::{Counted, Engine, Key, Result, Row, Sums, in_order};

const CREATE: &str = r#"
CREATE TABLE bench_event (
    shard int2 NOT NULL, recipient text COLLATE "C" NOT NULL, id uuid NOT NULL, name text COLLATE "C", traceparent text,
    value bytea NOT NULL,
    PRIMARY KEY (shard, recipient, id)
);
CREATE TABLE bench_state (
    shard int2 NOT NULL, recipient text COLLATE "C" NOT NULL, count int8 NOT NULL, PRIMARY KEY (shard, recipient)
) WITH (fillfactor = 70);
CREATE TABLE bench_count (
    recipient text COLLATE "C" PRIMARY KEY, eversion int8 NOT NULL, count int8 NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE bench_outbox (LIKE eventbox_outbox INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE)"#;

/// Truncates only tables with rows, because each truncated table costs several files and their flushes.
const CLEAR: &str = "
DO $$ BEGIN
    IF pg_relation_size('bench_event') > 0 THEN TRUNCATE bench_event; END IF;
    IF pg_relation_size('bench_state') > 0 THEN TRUNCATE bench_state; END IF;
    IF pg_relation_size('bench_count') > 0 THEN TRUNCATE bench_count; END IF;
    IF pg_relation_size('bench_outbox') > 0 THEN TRUNCATE bench_outbox; END IF;
    IF pg_relation_size('eventbox_event') > 0 THEN TRUNCATE eventbox_event; END IF;
    IF pg_relation_size('eventbox_state') > 0 THEN TRUNCATE eventbox_state; END IF;
    IF pg_relation_size('eventbox_tombstone') > 0 THEN TRUNCATE eventbox_tombstone; END IF;
    IF pg_relation_size('eventbox_outbox') > 0 THEN TRUNCATE eventbox_outbox; END IF;
    IF pg_relation_size('eventbox_dead_letter') > 0 THEN TRUNCATE eventbox_dead_letter; END IF;
    IF pg_relation_size('eventbox_failure') > 0 THEN TRUNCATE eventbox_failure; END IF;
    IF pg_relation_size('eventbox_timer') > 0 THEN TRUNCATE eventbox_timer; END IF;
    IF pg_relation_size('eventbox_journal') > 0 THEN TRUNCATE eventbox_journal, eventbox_journal_kind; END IF;
END $$";

/// Skips tables that were just emptied. After an ANALYZE of an empty table the planner plans to read all of it and
/// keeps the plan.
const FILLED: &str = "
SELECT relname::text FROM pg_class WHERE oid = ANY (
    ARRAY['bench_event', 'bench_state', 'bench_count', 'bench_outbox', 'eventbox_event', 'eventbox_state',
          'eventbox_outbox']::regclass[])
AND pg_relation_size(oid) > 0";

/// The tables with the most writes, and the statement that settles each.
const SETTLE: [(&str, &str); 7] = [
    ("bench_event", "VACUUM (ANALYZE) bench_event"),
    ("bench_state", "VACUUM (ANALYZE) bench_state"),
    ("bench_count", "VACUUM (ANALYZE) bench_count"),
    ("bench_outbox", "VACUUM (ANALYZE) bench_outbox"),
    ("eventbox_event", "VACUUM (ANALYZE) eventbox_event"),
    ("eventbox_state", "VACUUM (ANALYZE) eventbox_state"),
    ("eventbox_outbox", "VACUUM (ANALYZE) eventbox_outbox"),
];

const SETTINGS: &str = "
SELECT name::text, current_setting(name)::text FROM unnest(ARRAY['server_version', 'fsync', 'synchronous_commit',
    'full_page_writes', 'wal_sync_method', 'wal_level', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout',
    'autovacuum', 'jit']) AS name";

const INSERT: &str = "INSERT INTO bench_event (shard, recipient, id, value) VALUES ($1, $2, $3, $4)";

const INSERT_MANY: &str = "INSERT INTO bench_event (shard, recipient, id, value)
SELECT * FROM unnest($1::int2[], $2::text[], $3::uuid[], $4::bytea[])";

const INSERT_WAKING: &str =
    "WITH added AS (INSERT INTO bench_event (shard, recipient, id, value) VALUES ($1, $2, $3, $4))
SELECT pg_notify('bench_event', $2)";

const INSERT_STATES: &str = "
WITH r AS MATERIALIZED (
    SELECT * FROM unnest($1::int2[], $2::text[]) AS r (shard, recipient)
), of_reducers AS (
    INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
    SELECT shard, recipient, 1, gen_random_uuid(), 0, '0' FROM r ON CONFLICT DO NOTHING
), of_processors AS (
    INSERT INTO bench_count (recipient, eversion, count) SELECT recipient, 1, 0 FROM r ON CONFLICT DO NOTHING
)
INSERT INTO bench_state (shard, recipient, count) SELECT shard, recipient, 0 FROM r ON CONFLICT DO NOTHING";

/// Runs the transaction in one round trip: locks the state, deletes and returns the oldest events, updates the state.
const TAKE: &str = "
WITH locked AS MATERIALIZED (
    SELECT 1 FROM bench_state WHERE shard = $1 AND recipient = $2 FOR UPDATE
), gone AS (
    DELETE FROM bench_event WHERE ctid = ANY (ARRAY(
        SELECT e.ctid FROM locked, LATERAL (
            SELECT ctid FROM bench_event WHERE shard = $1 AND recipient = $2 ORDER BY id LIMIT $3
        ) e
    )) RETURNING value
), counted AS (
    UPDATE bench_state SET count = count + (SELECT count(*) FROM gone) WHERE shard = $1 AND recipient = $2
)
SELECT value FROM gone";

const LOAD_COUNT: &str = "SELECT count, eversion FROM bench_count WHERE recipient = $1";

const EVERSION: &str = "SELECT eversion FROM bench_count WHERE recipient = $1 FOR UPDATE";

const SAVE_COUNT: &str = "INSERT INTO bench_count (recipient, count, eversion) VALUES ($1, $2, $3)
ON CONFLICT (recipient) DO UPDATE SET count = excluded.count, eversion = excluded.eversion";

const LOAD_COUNTS: &str = "SELECT recipient, count, eversion FROM bench_count WHERE recipient = ANY ($1)";

/// Locks in the order of the keys, so that two rounds do not wait for each other.
const EVERSIONS: &str =
    "SELECT recipient, eversion FROM bench_count WHERE recipient = ANY ($1) ORDER BY recipient FOR UPDATE";

const SAVE_COUNTS: &str = "INSERT INTO bench_count (recipient, count, eversion)
SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[])
ON CONFLICT (recipient) DO UPDATE SET count = excluded.count, eversion = excluded.eversion";

const YARDSTICK_SUMS: &str =
    "SELECT (SELECT coalesce(sum(count), 0)::int8 FROM bench_state), (SELECT count(*) FROM bench_event)";

const REDUCER_SUMS: &str = "
SELECT (SELECT coalesce(sum(convert_from(state, 'UTF8')::int8), 0)::int8 FROM eventbox_state),
       (SELECT count(*) FROM eventbox_event WHERE recipient NOT LIKE 'parked/%')";

const PROCESSOR_SUMS: &str = "
SELECT (SELECT coalesce(sum(count), 0)::int8 FROM bench_count), (SELECT count(*) FROM eventbox_event)";

/// Flushes the connection's own statistics, which are otherwise flushed late. It has few commits of its own.
const FLUSH: &str = "SELECT pg_stat_force_next_flush()";

const COUNTED: &str = "
SELECT (SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()),
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
       (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::float8 FROM pg_stat_user_tables)";

/// Each transaction that writes takes the next number.
const WRITTEN: &str = "
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::float8,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";

const OTHERS: &str = "
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
  AND pid <> pg_backend_pid()";

/// Inserts events in the order of ids, as emits do. The ids of one recipient may equal those of another.
const PARK: &str = "
INSERT INTO eventbox_event (shard, recipient, id, value)
SELECT get_byte(decode(md5(convert_to(recipient, 'UTF8')), 'hex'), 0), recipient,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, decode(repeat(md5(n::text), 12), 'hex')
FROM (SELECT n, coalesce($2, 'parked/' || n / 100) AS recipient FROM generate_series(1, $1) n) AS rows";

impl Engine for Postgres {
    const ID: &'static str = "postgres";
    const WRITES_ALONE: bool = false;
    type Ear = PgListener;

    library_calls!();

    fn pool_options(_costing: bool) -> PoolOptions<Self> {
        eventbox::pool_options()
    }

    fn costing(options: PgConnectOptions) -> PgConnectOptions {
        options
    }

    async fn create(pool: &PgPool) -> Result<()> {
        pool.execute(sqlx::raw_sql(CREATE)).await.map(drop)
    }

    async fn clear(pool: &PgPool) -> Result<()> {
        pool.execute(CLEAR).await.map(drop)
    }

    async fn settle(pool: &PgPool, _costing: bool) -> Result<()> {
        let filled: Vec<String> = sqlx::query_scalar(FILLED).fetch_all(pool).await?;
        for (_, vacuum) in SETTLE.iter().filter(|(table, _)| filled.iter().any(|filled| filled == table)) {
            pool.execute(*vacuum).await?;
        }
        Ok(())
    }

    async fn settings(pool: &PgPool) -> Result<Vec<(String, String)>> {
        sqlx::query_as(SETTINGS).fetch_all(pool).await
    }

    async fn until_alone(pool: &PgPool) -> Result<()> {
        let deadline = Instant::now() + HANG_GUARD;
        while sqlx::query_scalar::<_, i64>(OTHERS).fetch_one(pool).await? > 0 {
            if Instant::now() > deadline {
                return Err(sqlx::Error::PoolTimedOut);
            }
            tokio::time::sleep(super::LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn counted(pool: &PgPool) -> Result<Counted> {
        // Servers before 15 lack this function and write the statistics later.
        if pool.execute(FLUSH).await.is_err() {
            tokio::time::sleep(super::STATISTICS_DELAY).await;
        }
        let (commits, wal_bytes, dead_tuples) = sqlx::query_as(COUNTED).fetch_one(pool).await?;
        Ok(Counted { commits, wal_bytes, dead_tuples })
    }

    async fn written(pool: &PgPool) -> Result<Counted> {
        let (commits, wal_bytes) = sqlx::query_as(WRITTEN).fetch_one(pool).await?;
        Ok(Counted { commits, wal_bytes, dead_tuples: None })
    }

    async fn insert(pool: &PgPool, row: Row<'_>) -> Result<()> {
        let query = sqlx::query(INSERT).bind(row.key.shard).bind(row.key.name()).bind(row.id).bind(row.value);
        query.execute(pool).await.map(drop)
    }

    async fn insert_many(pool: &PgPool, rows: &[Row<'_>]) -> Result<()> {
        let query = sqlx::query(INSERT_MANY)
            .bind(rows.iter().map(|row| row.key.shard).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.key.name()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.value).collect::<Vec<_>>());
        query.execute(pool).await.map(drop)
    }

    async fn insert_states(pool: &PgPool, keys: &[Key]) -> Result<()> {
        let query = sqlx::query(INSERT_STATES)
            .bind(keys.iter().map(|key| key.shard).collect::<Vec<_>>())
            .bind(keys.iter().map(Key::name).collect::<Vec<_>>());
        query.execute(pool).await.map(drop)
    }

    async fn take(pool: &PgPool, key: &Key, max: i64) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar(TAKE).bind(key.shard).bind(key.name()).bind(max).fetch_all(pool).await
    }

    async fn insert_waking(pool: &PgPool, row: Row<'_>) -> Result<()> {
        let query = sqlx::query(INSERT_WAKING).bind(row.key.shard).bind(row.key.name()).bind(row.id).bind(row.value);
        query.execute(pool).await.map(drop)
    }

    async fn listen(pool: &PgPool, _same_process: bool) -> Result<PgListener> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen("bench_event").await?;
        Ok(listener)
    }

    async fn woken(ear: &mut PgListener) -> Result<Vec<Key>> {
        let notification = ear.recv().await?;
        let to: Recipient =
            notification.payload().parse().map_err(|error: eventbox::Error| sqlx::Error::Decode(error.into()))?;
        Ok(vec![Key { shard: to.shard().into(), to }])
    }

    async fn load_count(conn: &mut PgConnection, to: &Recipient) -> Result<(i64, i64)> {
        Ok(sqlx::query_as(LOAD_COUNT).bind(to.as_str()).fetch_optional(conn).await?.unwrap_or_default())
    }

    async fn eversion(tx: &mut PgConnection, to: &Recipient) -> Result<i64> {
        Ok(sqlx::query_scalar(EVERSION).bind(to.as_str()).fetch_optional(tx).await?.unwrap_or_default())
    }

    async fn save_count(tx: &mut PgConnection, to: &Recipient, count: i64, eversion: i64) -> Result<()> {
        sqlx::query(SAVE_COUNT).bind(to.as_str()).bind(count).bind(eversion).execute(tx).await.map(drop)
    }

    async fn load_counts(conn: &mut PgConnection, of: &[Recipient]) -> Result<Vec<(i64, i64)>> {
        let query = sqlx::query_as(LOAD_COUNTS).bind(of.iter().map(Recipient::as_str).collect::<Vec<_>>());
        let rows: Vec<(String, i64, i64)> = query.fetch_all(conn).await?;
        Ok(in_order(of, &rows.into_iter().map(|(to, count, eversion)| (to, (count, eversion))).collect()))
    }

    async fn eversions(tx: &mut PgConnection, of: &[Recipient]) -> Result<Vec<i64>> {
        let query = sqlx::query_as(EVERSIONS).bind(of.iter().map(Recipient::as_str).collect::<Vec<_>>());
        let rows: Vec<(String, i64)> = query.fetch_all(tx).await?;
        Ok(in_order(of, &rows.into_iter().collect()))
    }

    async fn save_counts(tx: &mut PgConnection, counts: &[(&str, i64, i64)]) -> Result<()> {
        let query = sqlx::query(SAVE_COUNTS)
            .bind(counts.iter().map(|(to, ..)| *to).collect::<Vec<_>>())
            .bind(counts.iter().map(|(_, count, _)| *count).collect::<Vec<_>>())
            .bind(counts.iter().map(|(.., eversion)| *eversion).collect::<Vec<_>>());
        query.execute(tx).await.map(drop)
    }

    async fn yardstick_sums(pool: &PgPool) -> Result<Sums> {
        sums(pool, YARDSTICK_SUMS).await
    }

    async fn reducer_sums(pool: &PgPool) -> Result<Sums> {
        sums(pool, REDUCER_SUMS).await
    }

    async fn processor_sums(pool: &PgPool) -> Result<Sums> {
        sums(pool, PROCESSOR_SUMS).await
    }

    async fn outbox_left(pool: &PgPool) -> Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM eventbox_outbox").fetch_one(pool).await
    }

    async fn park(pool: &PgPool, events: i64, key: Option<&Key>) -> Result<()> {
        sqlx::query(PARK).bind(events).bind(key.map(Key::name)).execute(pool).await.map(drop)
    }

    async fn open_snapshot(conn: &mut PgConnection) -> Result<()> {
        conn.execute(sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM eventbox_lease"))
            .await
            .map(drop)
    }
}

async fn sums(pool: &PgPool, sql: &'static str) -> Result<Sums> {
    let row = sqlx::query(sql).fetch_one(pool).await?;
    Ok(Sums { counted: row.try_get(0)?, left: row.try_get(1)? })
}
