//! `eventbox_outbox`: messages that are not delivered yet.

use sqlx::{Database, Executor, Pool, Row};
use uuid::Uuid;

use crate::store::BoxFuture;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A message to be stored until its delivery.
#[derive(Debug, Clone, Copy)]
pub struct OutboxRow<'a> {
    pub shard: i16,
    pub id: Uuid,
    pub source: &'a str,
    pub r#type: &'a str,
    /// Stored form of the origin.
    pub origin: Option<&'a str>,
    pub payload: &'a [u8],
}

/// Names a row of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxKey {
    pub shard: i16,
    pub id: Uuid,
}

/// A message that was claimed: no other process may send it until the claim ends.
#[derive(Debug)]
pub struct ClaimedRow {
    pub key: OutboxKey,
    pub source: String,
    pub r#type: String,
    /// Number of claims, with this one.
    pub attempts: i32,
    pub payload: Vec<u8>,
}

/// Longest times until a message is due, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Longest {
    /// The longest claim, and the longest wait that a server may ask for.
    pub claim_us: i64,
    /// The first pause after a failure; it doubles with every attempt.
    pub first_pause_us: i64,
    /// The longest pause after a failure.
    pub pause_us: i64,
}

/// The messages to claim, and the duration of the claim.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The first shard to read; the last is 255.
    pub from_shard: i16,
    /// The most messages of one shard.
    pub per_shard: i64,
    /// The most messages of all shards.
    pub limit: i64,
    /// The most bytes of their payloads; one message is always claimed.
    pub bytes: i64,
    /// Duration of the claim, in microseconds. No other process may claim the messages in this time.
    pub claim_ttl_us: i64,
}

/// Next attempt of a message, unless another process claimed it in between.
#[derive(Debug, Clone)]
pub struct Reschedule {
    pub key: OutboxKey,
    pub attempts: i32,
    pub delay_us: i64,
    pub code: String,
    pub error: String,
}

/// Reason to give up a message, unless another process claimed it in between.
#[derive(Debug, Clone)]
pub struct ToDeadLetter {
    pub key: OutboxKey,
    pub attempts: i32,
    pub code: String,
    pub reason: String,
}

/// Number of rows of a source and a type that left the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowCount {
    pub source: String,
    pub r#type: String,
    pub rows: u64,
}

/// Most rows that an observation counts. One more means that there are more rows.
pub(crate) const MAX_COUNTED_ROWS: i64 = 100_000;

/// Rows of the outbox, counted up to one more than [`MAX_COUNTED_ROWS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxSample {
    /// Rows that are not delivered.
    pub undelivered: i64,
    /// Bytes of the payloads of these rows.
    pub payload_bytes: i64,
    /// Number of these rows that reach the given age within the given lead.
    pub near_ttl: i64,
    /// The age of the oldest of these rows, in microseconds.
    pub oldest_age_us: i64,
    /// All rows, with those that are kept after their delivery.
    pub total_rows: i64,
}

/// Reads the row of an observation.
pub(in crate::store) fn sampled<R: Row>(row: &R) -> Result<OutboxSample, Fault>
where
    usize: sqlx::ColumnIndex<R>,
    i64: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    Ok(OutboxSample {
        undelivered: row.try_get(0)?,
        payload_bytes: row.try_get(1)?,
        near_ttl: row.try_get(2)?,
        oldest_age_us: row.try_get(3)?,
        total_rows: row.try_get(4)?,
    })
}

/// Statements on the outbox.
pub trait OutboxDialect: Database {
    /// Number of concurrent inserts that increase the rate.
    const INSERT_WORKERS: usize;

    /// Number of statements that can write at the same time.
    const WRITERS: usize;

    /// Inserts a message. The insert is the first claim: no other process may send the message for `hold_us`
    /// microseconds.
    ///
    /// Boxed, because an opaque future that names `E` cannot be awaited inside a boxed side effect.
    fn insert_outbox<'e, E>(executor: E, row: &OutboxRow<'_>, claim_ttl_us: i64) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e;

    /// Inserts messages in a transaction, as [`insert_outbox`](OutboxDialect::insert_outbox) does.
    fn insert_outbox_in(
        tx: &mut Self::Connection,
        rows: &[OutboxRow<'_>],
        claim_ttl_us: i64,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Inserts messages on a pool, all of them or none.
    fn insert_outbox_on_pool(
        pool: &Pool<Self>,
        rows: &[OutboxRow<'_>],
        claim_ttl_us: i64,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Claims due messages: counts the attempt, and sets the time from which another process may claim them. Leaves
    /// out the messages of paused destinations.
    fn claim_outbox(
        conn: &mut Self::Connection,
        claim: Claim,
    ) -> impl Future<Output = Result<Vec<ClaimedRow>, Fault>> + Send;

    /// Makes messages of paused destinations due later, in `hold_us` microseconds, so that claims need not pass over
    /// all of them. Leaves the first `kept_due` of each shard due, and takes at most `per_shard` of each. Counts no
    /// attempt.
    fn set_aside_outbox(
        conn: &mut Self::Connection,
        kept_due: i64,
        per_shard: i64,
        hold_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Makes messages due whose due time lies further ahead than their claim or pause may. Returns the number of these
    /// messages. The clock of the database has gone back since their due time was written.
    fn recall_outbox(
        conn: &mut Self::Connection,
        longest: Longest,
        per_shard: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Deletes delivered messages. Returns the number of deleted messages. Needs no durable commit, because a lost
    /// deletion only repeats a delivery.
    fn delete_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Marks messages as delivered and never due again. Returns the number of newly marked messages.
    fn mark_outbox(pool: &Pool<Self>, keys: &[OutboxKey]) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Sets the time at which messages are due again. Returns the number of messages that were still ours.
    fn reschedule_outbox(
        conn: &mut Self::Connection,
        rows: &[Reschedule],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Moves messages to the dead letters. Returns those that were still ours.
    fn move_to_dead_letters(
        tx: &mut Self::Connection,
        rows: &[ToDeadLetter],
    ) -> impl Future<Output = Result<Vec<OutboxKey>, Fault>> + Send;

    /// Moves undelivered messages of at least the given age to the dead letters, at most `per_shard` of each shard. The
    /// messages that are due first go first. Those of paused destinations stay.
    fn expire_outbox(
        tx: &mut Self::Connection,
        ttl_us: i64,
        per_shard: i64,
    ) -> impl Future<Output = Result<Vec<RowCount>, Fault>> + Send;

    /// Returns a cheap observation of the outbox.
    fn observe_outbox(
        conn: &mut Self::Connection,
        ttl_us: i64,
        lead_us: i64,
    ) -> impl Future<Output = Result<OutboxSample, Fault>> + Send;
}

/// Adds up rows of `source, type, count`.
pub(in crate::store) fn row_counts<R: Row>(rows: &[R]) -> Result<Vec<RowCount>, Fault>
where
    usize: sqlx::ColumnIndex<R>,
    String: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    i64: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let mut counts: Vec<RowCount> = Vec::new();
    for row in rows {
        let (source, r#type): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let rows = u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0);
        match counts.iter_mut().find(|count| count.source == source && count.r#type == r#type) {
            Some(count) => count.rows += rows,
            None => counts.push(RowCount { source, r#type, rows }),
        }
    }
    Ok(counts)
}

/// Statements on the outbox that both engines accept.
pub trait OutboxTable: OutboxDialect {
    /// Returns whether an undelivered message waits.
    fn has_undelivered(conn: &mut Self::Connection) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Counts the messages up to `limit`, with delivered messages that are kept.
    fn count_outbox(conn: &mut Self::Connection, limit: i64) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Deletes delivered messages, those first that were delivered first. Returns the number of deleted messages.
    fn purge_outbox(conn: &mut Self::Connection, limit: i64) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    impl OutboxTable for Engine {
        async fn has_undelivered(conn: &mut <Self as Database>::Connection) -> Result<bool, Fault> {
            let query =
                sqlx::query::<Engine>("SELECT EXISTS (SELECT 1 FROM eventbox_outbox WHERE delivered_at_us IS NULL)");
            Ok(query.fetch_one(conn).await?.try_get(0)?)
        }

        async fn count_outbox(conn: &mut <Self as Database>::Connection, limit: i64) -> Result<i64, Fault> {
            let query =
                sqlx::query::<Engine>("SELECT count(*) FROM (SELECT 1 FROM eventbox_outbox LIMIT $1 + 0) AS counted");
            Ok(query.bind(limit).fetch_one(conn).await?.try_get(0)?)
        }

        async fn purge_outbox(conn: &mut <Self as Database>::Connection, limit: i64) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_outbox WHERE (shard, id) IN (
                     SELECT shard, id FROM eventbox_outbox WHERE delivered_at_us IS NOT NULL
                     ORDER BY delivered_at_us LIMIT $1 + 0
                 )",
            );
            Ok(query.bind(limit).execute(conn).await?.rows_affected())
        }
    }
}
