//! What the test needs of an engine: its literals, and its own statements with the parameters that the store binds.

use std::sync::OnceLock;

use eventbox::{Emitted, Event, Recipient};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Pool, Postgres, Row, Sqlite};

use super::table::{STEP_US, Value};
use crate::support::source::{Statement, statements};
use crate::support::{TestDb, TestEngine};

/// Shard and id of a message.
pub(super) type Key = (i16, Uuid);

/// Which messages to claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) from_shard: i16,
    pub(super) per_shard: i64,
    pub(super) limit: i64,
    pub(super) hold_us: i64,
    pub(super) bytes: i64,
}

/// What is read of one recipient in a round.
pub(super) type Part = (i16, String, Uuid, bool);

pub(super) trait Twin: TestEngine {
    /// Microseconds since 1970 by the engine's clock.
    const NOW: &'static str;

    /// Returns a value as a literal, at a moment.
    fn literal(value: &Value, base_us: i64) -> String {
        match value {
            Value::Null => "NULL".to_owned(),
            Value::Int(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Value::Time(steps) => (base_us + steps * STEP_US).to_string(),
            Value::Id(id) => Self::id(*id),
            Value::Bytes(bytes) => Self::bytes(bytes),
        }
    }

    fn id(id: Uuid) -> String;

    fn bytes(bytes: &[u8]) -> String;

    /// Returns the expression that shows an id or bytes as lower-case digits.
    fn digits(column: &str, is_id: bool) -> String;

    /// Returns a pool on a database whose own order of texts is not that of their bytes, where the engine has such.
    async fn pool_of(db: &TestDb<Self>) -> Pool<Self>;

    /// Removes what [`Twin::pool_of`] has made.
    async fn remove_pool(db: &TestDb<Self>);

    /// [`eventbox::emit_all`], which takes the pool of a known engine only.
    async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> Vec<Emitted>;

    async fn claim(pool: &Pool<Self>, claim: Claim) -> Vec<String>;

    /// Makes messages due that lie too far ahead; returns how many.
    async fn recall(pool: &Pool<Self>, longest: [i64; 3], per_shard: i64) -> u64;

    /// Runs `DELETE_OUTBOX` or `MARK_OUTBOX`; returns source, type and rows.
    async fn settle(pool: &Pool<Self>, name: &str, keys: &[Key]) -> Vec<(String, String, i64)>;

    async fn reschedule(pool: &Pool<Self>, rows: &[(Key, i32)], delay_us: i64) -> u64;

    async fn bury(pool: &Pool<Self>, rows: &[(Key, i32)]) -> Vec<Key>;

    async fn walk(pool: &Pool<Self>, from: (i16, &str, Option<&str>), limit: i64, kinds: &[&str]) -> Vec<String>;

    async fn round(pool: &Pool<Self>, parts: &[Part], rows: i64, bytes: [i64; 2], wait_us: i64) -> Vec<String>;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a statement of an engine. The source is read once, because that takes long.
fn sql<B: Twin>(name: &str) -> AssertSqlSafe<String> {
    static READ: [OnceLock<Vec<Statement>>; 2] = [const { OnceLock::new() }; 2];
    let read = &READ[usize::from(B::FOLDER == Sqlite::FOLDER)];
    let mut found = read.get_or_init(|| statements(B::FOLDER)).iter();
    let named = found.find(|statement| statement.name.as_deref() == Some(name));
    AssertSqlSafe(named.unwrap_or_else(|| panic!("no statement {name} for {}", B::FOLDER)).sql.clone())
}

/// Returns a length of time in whole steps.
pub(super) fn steps(time_us: i64) -> i64 {
    (time_us + STEP_US / 2).div_euclid(STEP_US)
}

async fn sorted_name(db: &TestDb<Postgres>) -> String {
    db.texts("SELECT current_database()::text || '_sorted'").await.remove(0)
}

/// Returns the text of a claimed message.
macro_rules! claimed {
    ($row:expr) => {{
        let (shard, id): (i16, Uuid) = ($row.get(0), $row.get(1));
        let (source, kind): (String, String) = ($row.get(2), $row.get(3));
        let (attempts, payload): (i32, Vec<u8>) = ($row.get(4), $row.get(5));
        format!("{shard} {id} {source} {kind} {attempts} {}", payload.len())
    }};
}

/// Returns the text of a recipient that a scan found; whether its wait is over, instead of the wait.
macro_rules! walked {
    ($row:expr) => {{
        let (shard, to, first): (i16, String, Uuid) = ($row.get(0), $row.get(1), $row.get(2));
        let (last, paused, wait_us): (Option<String>, bool, i64) = ($row.get(3), $row.get(4), $row.get(5));
        // Without a failure the due time is 0, and the wait the whole clock.
        let wait = if wait_us < -1_000 * STEP_US { "none".to_owned() } else { steps(wait_us).to_string() };
        format!("{shard} {to} {first} {last:?} {paused} {wait}")
    }};
}

/// Returns the text of a row of a round.
macro_rules! round {
    ($row:expr, $first_place:expr) => {{
        let (place, turn): (i64, Option<i64>) = ($row.get(0), $row.get(1));
        let (state, has_state): (Option<Vec<u8>>, Option<bool>) = ($row.get(2), $row.get(3));
        let (hindered, id): (Option<bool>, Option<Uuid>) = ($row.get(4), $row.get(5));
        let (name, traceparent): (Option<String>, Option<String>) = ($row.get(6), $row.get(7));
        let (value, bytes): (Option<Vec<u8>>, Option<i64>) = ($row.get(8), $row.get(9));
        let (state, value) = (state.map(|state| hex(&state)), value.map(|value| hex(&value)));
        // A recipient without a turn has turn 0 or none.
        let turn = turn.unwrap_or(0);
        let what = format!("{turn} {state:?} {has_state:?} {hindered:?} {name:?} {traceparent:?} {value:?} {bytes:?}");
        format!("{:04} {} {what}", place - $first_place, id.unwrap_or_default())
    }};
}

impl Twin for Postgres {
    const NOW: &'static str = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";

    fn id(id: Uuid) -> String {
        format!("'{id}'")
    }

    fn bytes(bytes: &[u8]) -> String {
        format!("'\\x{}'", hex(bytes))
    }

    fn digits(column: &str, is_id: bool) -> String {
        if is_id { format!("replace({column}::text, '-', '')") } else { format!("encode({column}, 'hex')") }
    }

    async fn pool_of(db: &TestDb<Self>) -> Pool<Self> {
        let name = sorted_name(db).await;
        let by_language = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
        let created = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
        // Postgres 14 has no such databases.
        if Self::run(&db.pool, format!("{created} {by_language}")).await.is_err() {
            db.run(created).await;
        }
        PgPoolOptions::new().max_connections(4).connect_lazy_with(db.options().database(&name))
    }

    async fn remove_pool(db: &TestDb<Self>) {
        db.run(format!("DROP DATABASE {} WITH (FORCE)", sorted_name(db).await)).await;
    }

    async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> Vec<Emitted> {
        eventbox::emit_all(pool, events).await.unwrap()
    }

    async fn claim(pool: &Pool<Self>, claim: Claim) -> Vec<String> {
        let query = sqlx::query(sql::<Self>("CLAIM_OUTBOX")).bind(i32::from(claim.from_shard)).bind(claim.per_shard);
        let query = query.bind(claim.limit).bind(claim.hold_us).bind(claim.bytes);
        query.fetch_all(pool).await.unwrap().iter().map(|row| claimed!(row)).collect()
    }

    async fn recall(pool: &Pool<Self>, [claim_us, first_us, pause_us]: [i64; 3], per_shard: i64) -> u64 {
        let query = sqlx::query(sql::<Self>("RECALL_OUTBOX")).bind(claim_us).bind(first_us);
        query.bind(pause_us).bind(per_shard).execute(pool).await.unwrap().rows_affected()
    }

    async fn settle(pool: &Pool<Self>, name: &str, keys: &[Key]) -> Vec<(String, String, i64)> {
        let (shards, ids): (Vec<i16>, Vec<Uuid>) = keys.iter().copied().unzip();
        sqlx::query_as(sql::<Self>(name)).bind(shards).bind(ids).fetch_all(pool).await.unwrap()
    }

    async fn reschedule(pool: &Pool<Self>, rows: &[(Key, i32)], delay_us: i64) -> u64 {
        let (keys, attempts): (Vec<Key>, Vec<i32>) = rows.iter().copied().unzip();
        let (shards, ids): (Vec<i16>, Vec<Uuid>) = keys.into_iter().unzip();
        let query = sqlx::query(sql::<Self>("RESCHEDULE_OUTBOX")).bind(shards).bind(ids).bind(attempts);
        let query = query.bind(vec![delay_us; rows.len()]).bind(vec!["BUSY"; rows.len()]);
        query.bind(vec!["it's full"; rows.len()]).execute(pool).await.unwrap().rows_affected()
    }

    async fn bury(pool: &Pool<Self>, rows: &[(Key, i32)]) -> Vec<Key> {
        let (keys, attempts): (Vec<Key>, Vec<i32>) = rows.iter().copied().unzip();
        let (shards, ids): (Vec<i16>, Vec<Uuid>) = keys.into_iter().unzip();
        let query = sqlx::query_as(sql::<Self>("BURY_OUTBOX")).bind(shards).bind(ids).bind(attempts);
        query.bind(vec!["BAD"; rows.len()]).bind(vec!["it's bad"; rows.len()]).fetch_all(pool).await.unwrap()
    }

    async fn walk(
        pool: &Pool<Self>,
        (shard, after, last): (i16, &str, Option<&str>),
        limit: i64,
        kinds: &[&str],
    ) -> Vec<String> {
        let query = sqlx::query(sql::<Self>("WALK_RECIPIENTS")).bind(vec![shard]).bind(vec![after]);
        let rows = query.bind(vec![last]).bind(limit).bind(kinds).fetch_all(pool).await.unwrap();
        rows.iter().map(|row| walked!(row)).collect()
    }

    async fn round(pool: &Pool<Self>, parts: &[Part], rows: i64, bytes: [i64; 2], wait_us: i64) -> Vec<String> {
        let query = sqlx::query(sql::<Self>("LIST_ROUND"))
            .bind(parts.iter().map(|part| part.0).collect::<Vec<_>>())
            .bind(parts.iter().map(|part| part.1.clone()).collect::<Vec<_>>())
            .bind(parts.iter().map(|part| part.2).collect::<Vec<_>>())
            .bind(rows)
            .bind(parts.iter().map(|part| part.3).collect::<Vec<_>>());
        let rows = query.bind(bytes[0]).bind(bytes[1]).bind(wait_us).fetch_all(pool).await.unwrap();
        rows.iter().map(|row| round!(row, 1)).collect()
    }
}

impl Twin for Sqlite {
    const NOW: &'static str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

    fn id(id: Uuid) -> String {
        Self::bytes(id.as_bytes())
    }

    fn bytes(bytes: &[u8]) -> String {
        format!("x'{}'", hex(bytes))
    }

    fn digits(column: &str, _is_id: bool) -> String {
        format!("CASE WHEN {column} IS NOT NULL THEN lower(hex({column})) END")
    }

    async fn pool_of(db: &TestDb<Self>) -> Pool<Self> {
        db.open(4)
    }

    async fn remove_pool(_db: &TestDb<Self>) {}

    async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> Vec<Emitted> {
        eventbox::emit_all(pool, events).await.unwrap()
    }

    async fn claim(pool: &Pool<Self>, claim: Claim) -> Vec<String> {
        let shards = json!((claim.from_shard..=255).collect::<Vec<_>>()).to_string();
        let query = sqlx::query(sql::<Self>("CLAIM_OUTBOX")).bind(shards).bind(claim.per_shard);
        let query = query.bind(claim.limit).bind(claim.hold_us).bind(claim.bytes);
        query.fetch_all(pool).await.unwrap().iter().map(|row| claimed!(row)).collect()
    }

    async fn recall(pool: &Pool<Self>, [claim_us, first_us, pause_us]: [i64; 3], per_shard: i64) -> u64 {
        let query = sqlx::query(sql::<Self>("RECALL_OUTBOX")).bind(json!((0..=255).collect::<Vec<_>>()).to_string());
        let query = query.bind(claim_us).bind(first_us).bind(pause_us).bind(per_shard);
        query.execute(pool).await.unwrap().rows_affected()
    }

    async fn settle(pool: &Pool<Self>, name: &str, keys: &[Key]) -> Vec<(String, String, i64)> {
        let keys: Vec<_> = keys.iter().map(|(shard, id)| json!([shard, hex(id.as_bytes())])).collect();
        sqlx::query_as(sql::<Self>(name)).bind(json!(keys).to_string()).fetch_all(pool).await.unwrap()
    }

    async fn reschedule(pool: &Pool<Self>, rows: &[(Key, i32)], delay_us: i64) -> u64 {
        let row = |((shard, id), attempts): &(Key, i32)| {
            json!([shard, hex(id.as_bytes()), attempts, delay_us, "BUSY", "it's full"])
        };
        let rows = json!(rows.iter().map(row).collect::<Vec<_>>()).to_string();
        sqlx::query(sql::<Self>("RESCHEDULE_OUTBOX")).bind(rows).execute(pool).await.unwrap().rows_affected()
    }

    async fn bury(pool: &Pool<Self>, rows: &[(Key, i32)]) -> Vec<Key> {
        let row =
            |((shard, id), attempts): &(Key, i32)| json!([shard, hex(id.as_bytes()), attempts, "BAD", "it's bad"]);
        let rows = json!(rows.iter().map(row).collect::<Vec<_>>()).to_string();
        let buried = sqlx::query_as(sql::<Self>("BURY_OUTBOX")).bind(&rows).fetch_all(pool).await.unwrap();
        sqlx::query(sql::<Self>("DELETE_BURIED")).bind(&rows).execute(pool).await.unwrap();
        buried
    }

    async fn walk(pool: &Pool<Self>, from: (i16, &str, Option<&str>), limit: i64, kinds: &[&str]) -> Vec<String> {
        let query = sqlx::query(sql::<Self>("WALK_RECIPIENTS")).bind(json!([from]).to_string()).bind(limit);
        let rows = query.bind(json!(kinds).to_string()).fetch_all(pool).await.unwrap();
        rows.iter().map(|row| walked!(row)).collect()
    }

    async fn round(pool: &Pool<Self>, parts: &[Part], rows: i64, bytes: [i64; 2], wait_us: i64) -> Vec<String> {
        let part = |(shard, to, after, is_known): &Part| json!([shard, to, hex(after.as_bytes()), is_known]);
        let parts = json!(parts.iter().map(part).collect::<Vec<_>>()).to_string();
        let query = sqlx::query(sql::<Self>("LIST_ROUND")).bind(parts).bind(rows).bind(bytes[0]).bind(bytes[1]);
        let rows = query.bind(wait_us).fetch_all(pool).await.unwrap();
        rows.iter().map(|row| round!(row, 0)).collect()
    }
}
