//! The yardsticks on SQLite: one connection that writes, and as few calls as a transaction can have. Both are best
//! practice.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eventbox::{Event, Recipient};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Executor, Pool, Row as _, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::broadcast;

use super::library_calls;
use crate::bench::engine::{BATCH, Counted, Engine, Key, Result, Row, SMALL_BATCH, Sums, in_order};

const CREATE: &str = "
CREATE TABLE bench_event (
    shard INTEGER NOT NULL, recipient TEXT NOT NULL, id BLOB NOT NULL, name TEXT, traceparent TEXT, value BLOB NOT NULL,
    PRIMARY KEY (shard, recipient, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE bench_state (
    shard INTEGER NOT NULL, recipient TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (shard, recipient)
) STRICT, WITHOUT ROWID;
CREATE TABLE bench_count (
    recipient TEXT PRIMARY KEY, eversion INTEGER NOT NULL, count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE bench_outbox (
    shard INTEGER NOT NULL, id BLOB NOT NULL, source TEXT NOT NULL, type TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 1, created_at_us INTEGER NOT NULL, next_attempt_at_us INTEGER NOT NULL,
    delivered_at_us INTEGER, last_code TEXT, last_error TEXT, origin TEXT, payload BLOB NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX bench_outbox_due ON bench_outbox (shard, next_attempt_at_us);
CREATE TABLE bench_lease (shard INTEGER PRIMARY KEY, until_us INTEGER NOT NULL) STRICT";

const CLEAR: &str = "
DELETE FROM bench_event; DELETE FROM bench_state; DELETE FROM bench_count; DELETE FROM bench_outbox;
DELETE FROM eventbox_event;
DELETE FROM eventbox_state; DELETE FROM eventbox_tombstone; DELETE FROM eventbox_outbox;
DELETE FROM eventbox_dead_letter; DELETE FROM eventbox_failure; DELETE FROM eventbox_timer;
DELETE FROM eventbox_journal; DELETE FROM eventbox_journal_kind";

/// Copies the log into the file, except pages that a reader still needs.
const SETTLE: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// Copies the log into the file and restarts it empty. It waits for readers.
const EMPTY_LOG: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

const SETTINGS: &str = "
SELECT 'sqlite_version', sqlite_version() UNION ALL SELECT 'journal_mode', journal_mode FROM pragma_journal_mode
UNION ALL SELECT 'synchronous', iif(synchronous = 2, 'full', CAST(synchronous AS TEXT)) FROM pragma_synchronous
UNION ALL SELECT 'page_size', CAST(page_size AS TEXT) FROM pragma_page_size
UNION ALL SELECT 'cache_size', CAST(cache_size AS TEXT) FROM pragma_cache_size";

const FILE: &str = "SELECT file FROM pragma_database_list WHERE name = 'main'";

const INSERT: &str = "INSERT INTO bench_event (shard, recipient, id, value) VALUES ($1, $2, $3, $4)";

macro_rules! ten_rows {
    () => {
        "(?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), \
         (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?)"
    };
}

macro_rules! fifty_rows {
    () => {
        concat!(ten_rows!(), ", ", ten_rows!(), ", ", ten_rows!(), ", ", ten_rows!(), ", ", ten_rows!())
    };
}

macro_rules! hundred_rows {
    () => {
        concat!(fifty_rows!(), ", ", fifty_rows!())
    };
}

/// Inserts many rows in one statement. This is faster than JSON or one statement for each row.
const INSERT_BATCH: &str = concat!(
    "INSERT INTO bench_event (shard, recipient, id, value) VALUES ",
    hundred_rows!(),
    ", ",
    hundred_rows!(),
    ", ",
    hundred_rows!(),
    ", ",
    hundred_rows!(),
    ", ",
    hundred_rows!()
);

const INSERT_SMALL_BATCH: &str =
    concat!("INSERT INTO bench_event (shard, recipient, id, value) VALUES ", hundred_rows!());

const INSERT_STATES: &str = "
INSERT OR IGNORE INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
SELECT value ->> 0, value ->> 1, 1, randomblob(16), 0, CAST('0' AS BLOB) FROM json_each($1);
INSERT OR IGNORE INTO bench_count (recipient, eversion, count) SELECT value ->> 1, 1, 0 FROM json_each($1);
INSERT OR IGNORE INTO bench_state (shard, recipient, count) SELECT value ->> 0, value ->> 1, 0 FROM json_each($1)";

/// Runs two statements in one call.
const TAKE: &str = "
DELETE FROM bench_event WHERE shard = $1 AND recipient = $2 AND id <= coalesce(
    (SELECT id FROM bench_event WHERE shard = $1 AND recipient = $2 ORDER BY id LIMIT 1 OFFSET $3 - 1),
    x'ffffffffffffffffffffffffffffffff') RETURNING value;
UPDATE bench_state SET count = count + changes() WHERE shard = $1 AND recipient = $2";

const DATA_VERSION: &str = "SELECT data_version FROM pragma_data_version";

const WITH_EVENTS: &str = "SELECT DISTINCT recipient FROM bench_event";

const LOAD_COUNT: &str = "SELECT count, eversion FROM bench_count WHERE recipient = $1";

const EVERSION: &str = "SELECT eversion FROM bench_count WHERE recipient = $1";

const SAVE_COUNT: &str = "INSERT INTO bench_count (recipient, count, eversion) VALUES ($1, $2, $3)
ON CONFLICT (recipient) DO UPDATE SET count = excluded.count, eversion = excluded.eversion";

const LOAD_COUNTS: &str = "
SELECT recipient, count, eversion FROM bench_count WHERE recipient IN (SELECT value FROM json_each($1))";

const EVERSIONS: &str =
    "SELECT recipient, eversion FROM bench_count WHERE recipient IN (SELECT value FROM json_each($1))";

/// The condition tells the parser that `ON` begins no join.
const SAVE_COUNTS: &str = "INSERT INTO bench_count (recipient, count, eversion)
SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE true
ON CONFLICT (recipient) DO UPDATE SET count = excluded.count, eversion = excluded.eversion";

const YARDSTICK_SUMS: &str =
    "SELECT (SELECT coalesce(sum(count), 0) FROM bench_state), (SELECT count(*) FROM bench_event)";

const REDUCER_SUMS: &str = "
SELECT (SELECT coalesce(sum(CAST(CAST(state AS TEXT) AS INTEGER)), 0) FROM eventbox_state),
       (SELECT count(*) FROM eventbox_event WHERE recipient NOT LIKE 'parked/%')";

const PROCESSOR_SUMS: &str =
    "SELECT (SELECT coalesce(sum(count), 0) FROM bench_count), (SELECT count(*) FROM eventbox_event)";

/// Inserts events in the order of ids, as emits do. SQLite has no MD5, and a parked recipient may be in any shard.
const PARK: &str = "
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
INSERT INTO eventbox_event (shard, recipient, id, value)
SELECT coalesce($3, (i / 100) % 256), coalesce($2, 'parked/' || (i / 100)),
       unhex('0190000000007000' || printf('%016x', i)), randomblob(200)
FROM n";

/// Pause of a hand-written consumer between two reads of the file's version.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Maximum number of wake-ups that a consumer may be behind.
const MAX_WOKEN: usize = 16_384;

/// Number of commits of the counted connections.
static COMMITS: AtomicU32 = AtomicU32::new(0);

/// The channel that wakes up consumers of this process.
static WAKE: LazyLock<broadcast::Sender<Key>> = LazyLock::new(|| broadcast::channel(MAX_WOKEN).0);

/// The wake-up: a channel within a process, the version of the file between two.
pub(crate) enum Ear {
    Channel(broadcast::Receiver<Key>),
    Version(PoolConnection<Sqlite>, i64),
}

impl Engine for Sqlite {
    const ID: &'static str = "sqlite";
    const WRITES_ALONE: bool = true;
    type Ear = Ear;

    library_calls!();

    fn pool_options(costing: bool) -> PoolOptions<Self> {
        if !costing {
            return eventbox::pool_options();
        }
        eventbox::pool_options().after_connect(|conn: &mut SqliteConnection, _| {
            Box::pin(async move {
                conn.lock_handle().await?.set_commit_hook(|| {
                    COMMITS.fetch_add(1, Ordering::Relaxed);
                    true
                });
                Ok(())
            })
        })
    }

    // Without checkpoints the log only grows, so its length is the number of written bytes.
    fn costing(options: SqliteConnectOptions) -> SqliteConnectOptions {
        options.pragma("wal_autocheckpoint", "0")
    }

    async fn create(pool: &SqlitePool) -> Result<()> {
        pool.execute(sqlx::raw_sql(CREATE)).await.map(drop)
    }

    async fn clear(pool: &SqlitePool) -> Result<()> {
        pool.execute(sqlx::raw_sql(CLEAR)).await.map(drop)
    }

    async fn settle(pool: &SqlitePool, costing: bool) -> Result<()> {
        pool.execute(if costing { EMPTY_LOG } else { SETTLE }).await.map(drop)
    }

    async fn settings(pool: &SqlitePool) -> Result<Vec<(String, String)>> {
        sqlx::query_as(SETTINGS).fetch_all(pool).await
    }

    async fn until_alone(_pool: &SqlitePool) -> Result<()> {
        Ok(())
    }

    async fn counted(pool: &SqlitePool) -> Result<Counted> {
        let file: String = sqlx::query_scalar(FILE).fetch_one(pool).await?;
        let log = std::fs::metadata(format!("{file}-wal")).map(|log| log.len());
        #[allow(clippy::cast_precision_loss, reason = "a log of petabytes is not written")]
        let wal_bytes = log.ok().map(|bytes| bytes as f64);
        Ok(Counted { commits: Some(COMMITS.load(Ordering::Relaxed).into()), wal_bytes, dead_tuples: None })
    }

    // Not by the hook: the library sets one of its own while code of a processor runs.
    async fn written(pool: &SqlitePool) -> Result<Counted> {
        let file: String = sqlx::query_scalar(FILE).fetch_one(pool).await?;
        let log = std::fs::read(format!("{file}-wal"))?;
        #[allow(clippy::cast_precision_loss, reason = "a log that fits into the memory")]
        let (commits, wal_bytes) = (Some(commits_in(&log) as f64), Some(log.len() as f64));
        Ok(Counted { commits, wal_bytes, dead_tuples: None })
    }

    async fn insert(pool: &SqlitePool, row: Row<'_>) -> Result<()> {
        let query = sqlx::query(INSERT).bind(row.key.shard).bind(row.key.name()).bind(row.id).bind(row.value);
        query.execute(pool).await.map(drop)
    }

    async fn insert_many(pool: &SqlitePool, rows: &[Row<'_>]) -> Result<()> {
        let at_once = match rows.len() {
            BATCH => Some(INSERT_BATCH),
            SMALL_BATCH => Some(INSERT_SMALL_BATCH),
            _ => None,
        };
        if let Some(sql) = at_once {
            let query = rows.iter().fold(sqlx::query(sql), |query, row| {
                query.bind(row.key.shard).bind(row.key.name()).bind(row.id).bind(row.value)
            });
            return query.execute(pool).await.map(drop);
        }
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        for row in rows {
            let query = sqlx::query(INSERT).bind(row.key.shard).bind(row.key.name()).bind(row.id).bind(row.value);
            query.execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    async fn insert_states(pool: &SqlitePool, keys: &[Key]) -> Result<()> {
        let rows: Vec<_> = keys.iter().map(|key| (key.shard, key.name())).collect();
        let rows = serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(INSERT_STATES).bind(rows).execute(pool).await.map(drop)
    }

    async fn take(pool: &SqlitePool, key: &Key, max: i64) -> Result<Vec<Vec<u8>>> {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        let query = sqlx::query_scalar(TAKE).bind(key.shard).bind(key.name()).bind(max);
        let taken = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(taken)
    }

    async fn insert_waking(pool: &SqlitePool, row: Row<'_>) -> Result<()> {
        let key = row.key.clone();
        Self::insert(pool, row).await?;
        // The channel has no listener if the consumer is another process.
        let _ = WAKE.send(key);
        Ok(())
    }

    async fn listen(pool: &SqlitePool, same_process: bool) -> Result<Ear> {
        match same_process {
            true => Ok(Ear::Channel(WAKE.subscribe())),
            false => Ok(Ear::Version(pool.acquire().await?, 0)),
        }
    }

    async fn woken(ear: &mut Ear) -> Result<Vec<Key>> {
        match ear {
            Ear::Channel(channel) => {
                channel.recv().await.map(|key| vec![key]).map_err(|error| sqlx::Error::Decode(error.into()))
            }
            Ear::Version(conn, known) => loop {
                let version = sqlx::query_scalar(DATA_VERSION).fetch_one(&mut **conn).await?;
                if std::mem::replace(known, version) != version {
                    let names: Vec<String> = sqlx::query_scalar(WITH_EVENTS).fetch_all(&mut **conn).await?;
                    let keys = names.iter().filter_map(|name| name.parse::<Recipient>().ok());
                    return Ok(keys.map(|to| Key { shard: to.shard().into(), to }).collect());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            },
        }
    }

    async fn load_count(conn: &mut SqliteConnection, to: &Recipient) -> Result<(i64, i64)> {
        Ok(sqlx::query_as(LOAD_COUNT).bind(to.as_str()).fetch_optional(conn).await?.unwrap_or_default())
    }

    async fn eversion(tx: &mut SqliteConnection, to: &Recipient) -> Result<i64> {
        Ok(sqlx::query_scalar(EVERSION).bind(to.as_str()).fetch_optional(tx).await?.unwrap_or_default())
    }

    async fn save_count(tx: &mut SqliteConnection, to: &Recipient, count: i64, eversion: i64) -> Result<()> {
        sqlx::query(SAVE_COUNT).bind(to.as_str()).bind(count).bind(eversion).execute(tx).await.map(drop)
    }

    async fn load_counts(conn: &mut SqliteConnection, of: &[Recipient]) -> Result<Vec<(i64, i64)>> {
        let query = sqlx::query_as(LOAD_COUNTS).bind(names(of)?);
        let rows: Vec<(String, i64, i64)> = query.fetch_all(conn).await?;
        Ok(in_order(of, &rows.into_iter().map(|(to, count, eversion)| (to, (count, eversion))).collect()))
    }

    async fn eversions(tx: &mut SqliteConnection, of: &[Recipient]) -> Result<Vec<i64>> {
        let rows: Vec<(String, i64)> = sqlx::query_as(EVERSIONS).bind(names(of)?).fetch_all(tx).await?;
        Ok(in_order(of, &rows.into_iter().collect()))
    }

    async fn save_counts(tx: &mut SqliteConnection, counts: &[(&str, i64, i64)]) -> Result<()> {
        let counts = serde_json::to_string(counts).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(SAVE_COUNTS).bind(counts).execute(tx).await.map(drop)
    }

    async fn yardstick_sums(pool: &SqlitePool) -> Result<Sums> {
        sums(pool, YARDSTICK_SUMS).await
    }

    async fn reducer_sums(pool: &SqlitePool) -> Result<Sums> {
        sums(pool, REDUCER_SUMS).await
    }

    async fn processor_sums(pool: &SqlitePool) -> Result<Sums> {
        sums(pool, PROCESSOR_SUMS).await
    }

    async fn outbox_left(pool: &SqlitePool) -> Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM eventbox_outbox").fetch_one(pool).await
    }

    async fn park(pool: &SqlitePool, events: i64, key: Option<&Key>) -> Result<()> {
        let query = sqlx::query(PARK).bind(events).bind(key.map(Key::name));
        query.bind(key.map(|key| key.shard)).execute(pool).await.map(drop)
    }

    async fn open_snapshot(conn: &mut SqliteConnection) -> Result<()> {
        conn.execute(sqlx::raw_sql("BEGIN; SELECT count(*) FROM eventbox_lease")).await.map(drop)
    }
}

fn names(of: &[Recipient]) -> Result<String> {
    let names: Vec<&str> = of.iter().map(Recipient::as_str).collect();
    serde_json::to_string(&names).map_err(|error| sqlx::Error::Encode(error.into()))
}

async fn sums(pool: &Pool<Sqlite>, sql: &'static str) -> Result<Sums> {
    let row = sqlx::query(sql).fetch_one(pool).await?;
    Ok(Sums { counted: row.try_get(0)?, left: row.try_get(1)? })
}

/// Counts the commits in a log. The last frame of a commit has the size of the file in its header.
fn commits_in(log: &[u8]) -> usize {
    const HEADER: usize = 32;
    const FRAME_HEADER: usize = 24;
    let page_size = log.get(8..12).and_then(|bytes| usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok());
    let frames = log.get(HEADER..).unwrap_or_default().chunks_exact(FRAME_HEADER + page_size.unwrap_or(0));
    frames.filter(|frame| frame.get(4..8) != Some(&[0; 4])).count()
}
