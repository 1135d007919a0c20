//! `eventbox_outbox` as an operator sees it: groups of messages that wait, and single ones.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;
use crate::store::outgoing::outbox::OutboxKey;

/// Messages of one source, type and last error code that are not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageGroup {
    pub source: String,
    pub r#type: String,
    pub last_code: Option<String>,
    pub messages: i64,
    pub oldest_at_us: i64,
    pub next_attempt_at_us: i64,
    pub most_attempts: i32,
    /// The error of one of them.
    pub last_error: Option<String>,
}

/// Which messages; `None` does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagesWanted {
    pub source: Option<String>,
    pub r#type: Option<String>,
    pub code: Option<String>,
}

/// A message that is not delivered, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageHead {
    pub key: OutboxKey,
    pub source: String,
    pub r#type: String,
    pub attempts: i32,
    pub created_at_us: i64,
    pub next_attempt_at_us: i64,
    pub last_code: Option<String>,
    pub last_error: Option<String>,
    /// Length of the payload.
    pub bytes: i64,
    pub origin: Option<String>,
}

/// Statements that look at messages of the outbox, and those of an operator that change them.
pub trait MessageViewTable: Database {
    /// Groups the first `scan` messages that are not delivered; returns the largest groups.
    fn group_messages(
        conn: &mut Self::Connection,
        scan: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<MessageGroup>, Fault>> + Send;

    /// Returns messages that are not delivered in key order, behind a key.
    fn message_heads(
        conn: &mut Self::Connection,
        wanted: &MessagesWanted,
        after: OutboxKey,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<MessageHead>, Fault>> + Send;

    /// Counts messages that were tried at least twice, at most `limit`.
    fn count_struggling(conn: &mut Self::Connection, limit: i64) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Makes a message due at once, unless it is due or a process is sending it now; false when nothing changed.
    fn make_message_due(tx: &mut Self::Connection, key: OutboxKey) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives up a message that is not delivered: makes it a dead letter. False when it is not there any more.
    fn bury_message(
        tx: &mut Self::Connection,
        key: OutboxKey,
        code: &str,
        reason: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

on_both_engines! {
    const MESSAGE_HEADS: &str =
        "SELECT shard, id, source, type, attempts, created_at_us, next_attempt_at_us, last_code, last_error,
                CAST(octet_length(payload) AS bigint), origin
         FROM eventbox_outbox
         WHERE (shard, id) > ($1, $2) AND delivered_at_us IS NULL
           AND (CAST($4 AS text) IS NULL OR source = $4)
           AND (CAST($5 AS text) IS NULL OR type = $5)
           AND (CAST($6 AS text) IS NULL OR last_code = $6)
         ORDER BY shard, id LIMIT $3 + 0";

    impl MessageViewTable for Engine {
        async fn group_messages(
            conn: &mut <Self as Database>::Connection,
            scan: i64,
            limit: i64,
        ) -> Result<Vec<MessageGroup>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT source, type, last_code, count(*), min(created_at_us), min(next_attempt_at_us), max(attempts),
                        max(last_error)
                 FROM (SELECT source, type, last_code, created_at_us, next_attempt_at_us, attempts, last_error
                       FROM eventbox_outbox WHERE delivered_at_us IS NULL LIMIT $1 + 0) o
                 GROUP BY source, type, last_code ORDER BY 4 DESC, 1, 2, 3 LIMIT $2 + 0",
            );
            let group = |row: &<Engine as Database>::Row| {
                Ok(MessageGroup {
                    source: row.try_get(0)?,
                    r#type: row.try_get(1)?,
                    last_code: row.try_get(2)?,
                    messages: row.try_get(3)?,
                    oldest_at_us: row.try_get(4)?,
                    next_attempt_at_us: row.try_get(5)?,
                    most_attempts: row.try_get(6)?,
                    last_error: row.try_get(7)?,
                })
            };
            query.bind(scan).bind(limit).fetch_all(conn).await?.iter().map(group).collect()
        }

        async fn message_heads(
            conn: &mut <Self as Database>::Connection,
            wanted: &MessagesWanted,
            after: OutboxKey,
            limit: i64,
        ) -> Result<Vec<MessageHead>, Fault> {
            let query = sqlx::query::<Engine>(MESSAGE_HEADS).bind(after.shard).bind(after.id).bind(limit);
            let query = query.bind(wanted.source.as_deref()).bind(wanted.r#type.as_deref());
            let head = |row: &<Engine as Database>::Row| {
                Ok(MessageHead {
                    key: OutboxKey { shard: row.try_get(0)?, id: row.try_get::<Uuid, _>(1)? },
                    source: row.try_get(2)?,
                    r#type: row.try_get(3)?,
                    attempts: row.try_get(4)?,
                    created_at_us: row.try_get(5)?,
                    next_attempt_at_us: row.try_get(6)?,
                    last_code: row.try_get(7)?,
                    last_error: row.try_get(8)?,
                    bytes: row.try_get(9)?,
                    origin: row.try_get(10)?,
                })
            };
            query.bind(wanted.code.as_deref()).fetch_all(conn).await?.iter().map(head).collect()
        }

        async fn count_struggling(conn: &mut <Self as Database>::Connection, limit: i64) -> Result<i64, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT count(*)
                 FROM (SELECT attempts FROM eventbox_outbox WHERE delivered_at_us IS NULL LIMIT $1 + 0) o
                 WHERE attempts > 1",
            );
            Ok(query.bind(limit).fetch_one(conn).await?.try_get(0)?)
        }

        async fn make_message_due(tx: &mut <Self as Database>::Connection, key: OutboxKey) -> Result<bool, Fault> {
            // A claim leaves the error of the attempt before it, so a message in flight cannot be told from one that
            // waits. A receiver that gets it twice drops the second copy by its key.
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_outbox SET next_attempt_at_us = ", now_us!(), "
                 WHERE shard = $1 AND id = $2 AND delivered_at_us IS NULL AND next_attempt_at_us > ", now_us!()
            ));
            Ok(query.bind(key.shard).bind(key.id).execute(tx).await?.rows_affected() == 1)
        }

        async fn bury_message(
            tx: &mut <Self as Database>::Connection,
            key: OutboxKey,
            code: &str,
            reason: &str,
        ) -> Result<bool, Fault> {
            // Two statements, and the values of the row pass through here: the INSERT that Citus makes of an
            // INSERT … SELECT with parameters is not valid SQL.
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_outbox WHERE shard = $1 AND id = $2 AND delivered_at_us IS NULL
                 RETURNING source, type, origin, attempts, payload",
            );
            let Some(row) = query.bind(key.shard).bind(key.id).fetch_optional(&mut *tx).await? else {
                return Ok(false);
            };
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_dead_letter
                     (shard, id, code, reason, source, type, origin, attempts, payload, dead_at_us)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, ", now_us!(), ")"
            ));
            let query = query.bind(key.shard).bind(key.id).bind(code).bind(reason);
            let query = query.bind(row.try_get::<String, _>(0)?).bind(row.try_get::<String, _>(1)?);
            let query = query.bind(row.try_get::<Option<String>, _>(2)?).bind(row.try_get::<i32, _>(3)?);
            query.bind(row.try_get::<Vec<u8>, _>(4)?).execute(tx).await?;
            Ok(true)
        }
    }
}
