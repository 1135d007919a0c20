//! The tables of the ingress server, and every statement on them.
//!
//! | table | rows |
//! | --- | --- |
//! | `ingress_event` | the first copy of each key, and every event without a key |
//! | `ingress_conflict` | other contents under a key in use |
//! | `ingress_counter` | one row with the counts |
//! | `ingress_schema` | one row per registered version of a schema |

use std::collections::{HashMap, HashSet};

use prost::Message;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool};

use super::content::same_content;
use crate::error::{Error, Result};
use crate::proto::chip_common::{RegisteredSchema, Schema};
use crate::store::{Fault, Packed};

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS ingress_event (
  sequence INTEGER PRIMARY KEY, received_at_us INTEGER NOT NULL, idempotency_key TEXT UNIQUE,
  copies INTEGER NOT NULL DEFAULT 0, event BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ingress_conflict (
  sequence INTEGER PRIMARY KEY, received_at_us INTEGER NOT NULL, idempotency_key TEXT NOT NULL, digest BLOB NOT NULL,
  copies INTEGER NOT NULL DEFAULT 0, event BLOB NOT NULL, UNIQUE (idempotency_key, digest)) STRICT;
CREATE TABLE IF NOT EXISTS ingress_schema (
  subject TEXT NOT NULL, version INTEGER NOT NULL, registered_at_us INTEGER NOT NULL, schema BLOB NOT NULL,
  PRIMARY KEY (subject, version)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ingress_counter (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1), last_sequence INTEGER NOT NULL DEFAULT 0,
  kept INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0, conflicts INTEGER NOT NULL DEFAULT 0,
  rejected INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO ingress_counter (only_row) VALUES (1) ON CONFLICT DO NOTHING";

/// Counts a table that every store has, to check whether a file is a store.
const IS_STORE: &str = "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'ingress_counter'";

const LAST_SEQUENCE: &str = "SELECT last_sequence FROM ingress_counter";

const INSERT_EVENTS: &str = "
INSERT INTO ingress_event (sequence, received_at_us, idempotency_key, event)
SELECT value ->> '$[2][0]', CAST(unixepoch('subsec') * 1000000 AS INTEGER), value ->> '$[2][1]',
       substr($2, value ->> 0, value ->> 1)
FROM json_each($1) WHERE true ON CONFLICT (idempotency_key) DO NOTHING";

const KEPT_SINCE: &str = "SELECT sequence FROM ingress_event WHERE sequence > $1";

const EVENTS_OF_KEYS: &str =
    "SELECT idempotency_key, event FROM ingress_event WHERE idempotency_key IN (SELECT value FROM json_each($1))";

const ADD_COPIES: &str = "
UPDATE ingress_event SET copies = copies + (r.value ->> 1) FROM json_each($1) r WHERE idempotency_key = r.value ->> 0";

const INSERT_CONFLICT: &str = "
INSERT INTO ingress_conflict (received_at_us, idempotency_key, digest, event)
VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER), $1, $2, $3)
ON CONFLICT (idempotency_key, digest) DO UPDATE SET copies = copies + 1 RETURNING copies";

const ADD_COUNTS: &str = "
UPDATE ingress_counter SET last_sequence = last_sequence + $1, kept = kept + $2, duplicates = duplicates + $3,
       conflicts = conflicts + $4, rejected = rejected + $5";

const COUNTS: &str = "SELECT kept, duplicates, conflicts, rejected FROM ingress_counter";

const EVENTS: &str = "
SELECT sequence, received_at_us, idempotency_key, copies, event,
       (SELECT COUNT(*) FROM ingress_conflict c WHERE c.idempotency_key = e.idempotency_key)
FROM ingress_event e WHERE sequence > $1 ORDER BY sequence LIMIT $2 + 0";

const CONFLICTS: &str = "
SELECT sequence, received_at_us, idempotency_key, copies, event, 0
FROM ingress_conflict WHERE sequence > $1 ORDER BY sequence LIMIT $2 + 0";

const KEYS: &str =
    "SELECT idempotency_key FROM ingress_event WHERE idempotency_key IS NOT NULL ORDER BY idempotency_key";

const NEWEST_SCHEMA: &str =
    "SELECT version, schema FROM ingress_schema WHERE subject = $1 ORDER BY version DESC LIMIT 1";

const INSERT_SCHEMA: &str = "
INSERT INTO ingress_schema (subject, version, registered_at_us, schema)
VALUES ($1, $2, CAST(unixepoch('subsec') * 1000000 AS INTEGER), $3)";

const REGISTERED_SUBJECTS: &str =
    "SELECT DISTINCT subject FROM ingress_schema WHERE subject IN (SELECT value FROM json_each($1))";

const SCHEMAS: &str = "SELECT version, schema FROM ingress_schema ORDER BY subject, version";

/// A valid event that the store does not have yet.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The `idempotencykey` of the event; `None` without a key.
    pub(super) key: Option<String>,
    /// The encoded CloudEvent.
    pub(super) encoded: Vec<u8>,
}

/// The number of events by outcome, since the creation of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Events in the log: the first copy of each key, and every event without a key.
    pub kept: u64,
    /// Further copies of kept events and conflicts; the server answered them as success.
    pub duplicates: u64,
    /// Other contents under a key in use; the server keeps each of them apart from the log.
    pub conflicts: u64,
    /// Refused events: events with a publish error of their own, and events that made a transactional batch fail.
    pub rejected: u64,
}

/// A row of the log or of the conflicts, with the encoded event.
pub(super) struct StoredRow {
    pub(super) sequence: i64,
    pub(super) received_at_us: i64,
    pub(super) key: Option<String>,
    pub(super) copies: i64,
    pub(super) event: Vec<u8>,
    pub(super) conflicts: i64,
}

pub(super) async fn create(pool: &SqlitePool) -> Result<()> {
    const ATTEMPT: &str = "create the tables of the ingress server";
    crate::eventbox::check(pool).await?;
    let mut tx = crate::eventbox::begin::<Sqlite>(pool).await?;
    sqlx::raw_sql(CREATE).execute(&mut *tx).await.map_err(|error| Fault::from(error).during(ATTEMPT))?;
    tx.commit().await.map_err(|error| Fault::from(error).during(ATTEMPT))
}

pub(super) async fn exists(pool: &SqlitePool) -> Result<bool> {
    let found: i64 = sqlx::query_scalar(IS_STORE).fetch_one(pool).await.map_err(reading)?;
    Ok(found == 1)
}

/// Keeps events in one transaction, and returns after the commit.
pub(super) async fn keep(pool: &SqlitePool, arrivals: &[&Arrival], rejected: u64) -> Result<()> {
    let mut tx = crate::eventbox::begin::<Sqlite>(pool).await?;
    let written = keep_in(&mut tx, arrivals, rejected).await;
    written.map_err(|error| Fault::from(error).during("keep events"))?;
    tx.commit().await.map_err(|error| Fault::from(error).during_commit("keep events"))
}

async fn keep_in(tx: &mut SqliteConnection, arrivals: &[&Arrival], rejected: u64) -> Result<(), sqlx::Error> {
    let last: i64 = sqlx::query_scalar(LAST_SEQUENCE).fetch_one(&mut *tx).await?;
    let mut counts = Counts { rejected, ..Counts::default() };
    if !arrivals.is_empty() {
        let mut packed = Packed::with_capacity(arrivals.len());
        for (sequence, arrival) in (last + 1..).zip(arrivals) {
            packed.push((sequence, &arrival.key), &arrival.encoded);
        }
        let (json, bytes) = packed.into_parameters()?;
        counts.kept = sqlx::query(INSERT_EVENTS).bind(json).bind(bytes).execute(&mut *tx).await?.rows_affected();
        if counts.kept < arrivals.len() as u64 {
            keep_repeats(&mut *tx, last, arrivals, &mut counts).await?;
        }
    }
    let query = sqlx::query(ADD_COUNTS).bind(stored(arrivals.len() as u64)).bind(stored(counts.kept));
    let query = query.bind(stored(counts.duplicates)).bind(stored(counts.conflicts)).bind(stored(counts.rejected));
    query.execute(tx).await?;
    Ok(())
}

/// Counts each arrival under a key in use as a further copy or as a conflict, and keeps the conflicts.
async fn keep_repeats(
    tx: &mut SqliteConnection,
    last: i64,
    arrivals: &[&Arrival],
    counts: &mut Counts,
) -> Result<(), sqlx::Error> {
    let kept: Vec<i64> = sqlx::query_scalar(KEPT_SINCE).bind(last).fetch_all(&mut *tx).await?;
    let kept: HashSet<i64> = kept.into_iter().collect();
    let repeats = (last + 1..).zip(arrivals).filter(|(sequence, _)| !kept.contains(sequence));
    let repeats: Vec<(&str, &[u8])> =
        repeats.map(|(_, arrival)| (arrival.key.as_deref().unwrap_or_default(), arrival.encoded.as_slice())).collect();
    let keys: HashSet<&str> = repeats.iter().map(|(key, _)| *key).collect();
    let rows = sqlx::query(EVENTS_OF_KEYS).bind(json_of(&keys)?).fetch_all(&mut *tx).await?;
    let mut first_copies = HashMap::with_capacity(rows.len());
    for row in rows {
        first_copies.insert(row.try_get::<String, _>(0)?, row.try_get::<Vec<u8>, _>(1)?);
    }
    let mut copies: HashMap<&str, u64> = HashMap::new();
    for (key, event) in repeats {
        if first_copies.get(key).is_some_and(|first| same_content(first, event)) {
            *copies.entry(key).or_default() += 1;
            counts.duplicates += 1;
        } else if keep_conflict(&mut *tx, key, event).await? {
            counts.conflicts += 1;
        } else {
            counts.duplicates += 1;
        }
    }
    sqlx::query(ADD_COPIES).bind(json_of(&copies.iter().collect::<Vec<_>>())?).execute(tx).await?;
    Ok(())
}

/// Keeps a conflict. Returns true when its content is new under this key.
async fn keep_conflict(tx: &mut SqliteConnection, key: &str, event: &[u8]) -> Result<bool, sqlx::Error> {
    let digest = Sha256::digest(super::content::content_of(event));
    let query = sqlx::query_scalar(INSERT_CONFLICT).bind(key).bind(digest.to_vec()).bind(event);
    let copies: i64 = query.fetch_one(tx).await?;
    Ok(copies == 0)
}

pub(super) async fn counts(pool: &SqlitePool) -> Result<Counts> {
    let read = async {
        let row = sqlx::query(COUNTS).fetch_one(pool).await?;
        let at = |column| row.try_get::<i64, _>(column).map(|count| u64::try_from(count).unwrap_or_default());
        Ok(Counts { kept: at(0)?, duplicates: at(1)?, conflicts: at(2)?, rejected: at(3)? })
    };
    read.await.map_err(reading)
}

pub(super) async fn events(pool: &SqlitePool, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
    listed(pool, EVENTS, after, limit).await
}

pub(super) async fn conflicts(pool: &SqlitePool, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
    listed(pool, CONFLICTS, after, limit).await
}

async fn listed(pool: &SqlitePool, statement: &'static str, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
    let rows = sqlx::query(statement).bind(after).bind(limit).fetch_all(pool).await.map_err(reading)?;
    let decode = |row: &SqliteRow| {
        Ok(StoredRow {
            sequence: row.try_get(0)?,
            received_at_us: row.try_get(1)?,
            key: row.try_get(2)?,
            copies: row.try_get(3)?,
            event: row.try_get(4)?,
            conflicts: row.try_get(5)?,
        })
    };
    rows.iter().map(|row| decode(row).map_err(reading)).collect()
}

pub(super) async fn keys(pool: &SqlitePool) -> Result<Vec<String>> {
    sqlx::query_scalar(KEYS).fetch_all(pool).await.map_err(reading)
}

/// Registers all schemas or none.
///
/// A schema that equals the newest version of its subject keeps this version.
pub(super) async fn register(pool: &SqlitePool, schemas: &[Schema]) -> Result<Vec<RegisteredSchema>> {
    const ATTEMPT: &str = "register schemas";
    let mut tx = crate::eventbox::begin::<Sqlite>(pool).await?;
    let mut registered = Vec::with_capacity(schemas.len());
    for schema in schemas {
        let version = register_one(&mut tx, schema).await.map_err(|error| Fault::from(error).during(ATTEMPT))?;
        registered.push(RegisteredSchema { subject: schema.subject.clone(), version });
    }
    tx.commit().await.map_err(|error| Fault::from(error).during_commit(ATTEMPT))?;
    Ok(registered)
}

async fn register_one(tx: &mut SqliteConnection, schema: &Schema) -> Result<i32, sqlx::Error> {
    let encoded = schema.encode_to_vec();
    let newest = sqlx::query(NEWEST_SCHEMA).bind(&schema.subject).fetch_optional(&mut *tx).await?;
    let mut version = 1;
    if let Some(row) = newest {
        let newest: i32 = row.try_get(0)?;
        if row.try_get::<Vec<u8>, _>(1)? == encoded {
            return Ok(newest);
        }
        version = newest + 1;
    }
    sqlx::query(INSERT_SCHEMA).bind(&schema.subject).bind(version).bind(encoded).execute(tx).await?;
    Ok(version)
}

pub(super) async fn registered(pool: &SqlitePool, subjects: &HashSet<String>) -> Result<HashSet<String>> {
    let read = async {
        let query = sqlx::query_scalar(REGISTERED_SUBJECTS).bind(json_of(subjects)?);
        let found: Vec<String> = query.fetch_all(pool).await?;
        Ok(found.into_iter().collect())
    };
    read.await.map_err(reading)
}

pub(super) async fn schemas(pool: &SqlitePool) -> Result<Vec<(i32, Vec<u8>)>> {
    let rows = sqlx::query(SCHEMAS).fetch_all(pool).await.map_err(reading)?;
    let decode = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(|row| decode(row).map_err(reading)).collect()
}

fn reading(error: sqlx::Error) -> Error {
    Fault::from(error).during("read the log of the ingress server")
}

fn json_of<T: serde::Serialize>(values: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(values).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Converts a count for SQLite, because the integers of SQLite are signed.
fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
