//! `eventbox_dead_letter` as a whole: events in quarantine and messages that were given up.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;
use crate::store::outgoing::outbox::OutboxKey;

/// Which dead letters; `None` does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadWanted {
    /// Only this shard.
    pub shard: Option<i16>,
    /// Only events (`true`), or only messages.
    pub is_event: Option<bool>,
    pub code: Option<String>,
    /// First recipient, inclusive, and the first one behind the last.
    pub recipients: Option<(String, String)>,
    pub source: Option<String>,
    pub r#type: Option<String>,
    /// First time, inclusive.
    pub since_us: Option<i64>,
    /// The first time behind the last.
    pub until_us: Option<i64>,
}

/// A dead letter without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadHead {
    pub key: OutboxKey,
    pub recipient: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
    pub r#type: Option<String>,
    pub code: String,
    pub reason: String,
    pub attempts: i32,
    pub dead_at_us: i64,
    /// Length of the payload.
    pub bytes: i64,
    pub origin: Option<String>,
}

/// Statements that look at dead letters of both sorts.
pub trait DeadViewTable: Database {
    /// Returns dead letters in key order, behind a key.
    fn dead_heads(
        conn: &mut Self::Connection,
        wanted: &DeadWanted,
        after: OutboxKey,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<DeadHead>, Fault>> + Send;

    /// Counts dead letters, at most `limit`.
    fn count_dead(
        conn: &mut Self::Connection,
        wanted: &DeadWanted,
        limit: i64,
    ) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Returns the payload of a dead letter.
    fn dead_payload(
        conn: &mut Self::Connection,
        key: OutboxKey,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Fault>> + Send;
}

/// The condition of [`DeadWanted`]; the parameters 4 to 12 are its fields.
macro_rules! wanted {
    () => {
        "(shard, id) > ($1, $2) AND shard >= coalesce($4, 0) AND shard <= coalesce($4, 255)
         AND (CAST($5 AS text) IS NULL OR ($5 = 'event') = (recipient IS NOT NULL))
         AND (CAST($6 AS text) IS NULL OR code = $6)
         AND (CAST($7 AS text) IS NULL OR (recipient >= $7 AND recipient < CAST($8 AS text)))
         AND (CAST($9 AS text) IS NULL OR source = $9)
         AND (CAST($10 AS text) IS NULL OR type = $10)
         AND dead_at_us >= coalesce($11, 0) AND dead_at_us < coalesce($12, 9223372036854775807)"
    };
}

on_both_engines! {
    const DEAD_HEADS: &str = concat!(
        "SELECT shard, id, recipient, name, source, type, code, reason, attempts, dead_at_us,
                CAST(octet_length(payload) AS bigint), origin
         FROM eventbox_dead_letter WHERE ", wanted!(), " ORDER BY shard, id LIMIT $3 + 0"
    );

    const COUNT_DEAD: &str = concat!(
        "SELECT count(*) FROM (SELECT 1 FROM eventbox_dead_letter WHERE ", wanted!(), " LIMIT $3 + 0) counted"
    );

    macro_rules! with_wanted {
        ($sql:ident, $wanted:ident, $after:ident, $limit:ident) => {{
            let recipients = $wanted.recipients.as_ref();
            let query = sqlx::query::<Engine>($sql).bind($after.shard).bind($after.id).bind($limit);
            let query = query.bind($wanted.shard).bind($wanted.is_event.map(|is| if is { "event" } else { "message" }));
            let query = query.bind($wanted.code.as_deref());
            let query = query.bind(recipients.map(|(first, _)| first.as_str()));
            let query = query.bind(recipients.map(|(_, behind)| behind.as_str()));
            let query = query.bind($wanted.source.as_deref()).bind($wanted.r#type.as_deref());
            query.bind($wanted.since_us).bind($wanted.until_us)
        }};
    }

    impl DeadViewTable for Engine {
        async fn dead_heads(
            conn: &mut <Self as Database>::Connection,
            wanted: &DeadWanted,
            after: OutboxKey,
            limit: i64,
        ) -> Result<Vec<DeadHead>, Fault> {
            let query = with_wanted!(DEAD_HEADS, wanted, after, limit);
            let head = |row: &<Engine as Database>::Row| {
                Ok(DeadHead {
                    key: OutboxKey { shard: row.try_get(0)?, id: row.try_get(1)? },
                    recipient: row.try_get(2)?,
                    name: row.try_get(3)?,
                    source: row.try_get(4)?,
                    r#type: row.try_get(5)?,
                    code: row.try_get(6)?,
                    reason: row.try_get(7)?,
                    attempts: row.try_get(8)?,
                    dead_at_us: row.try_get(9)?,
                    bytes: row.try_get(10)?,
                    origin: row.try_get(11)?,
                })
            };
            query.fetch_all(conn).await?.iter().map(head).collect()
        }

        async fn count_dead(
            conn: &mut <Self as Database>::Connection,
            wanted: &DeadWanted,
            limit: i64,
        ) -> Result<i64, Fault> {
            let after = OutboxKey { shard: -1, id: Uuid::nil() };
            let row = with_wanted!(COUNT_DEAD, wanted, after, limit).fetch_one(conn).await?;
            Ok(row.try_get(0)?)
        }

        async fn dead_payload(
            conn: &mut <Self as Database>::Connection,
            key: OutboxKey,
        ) -> Result<Option<Vec<u8>>, Fault> {
            let query = sqlx::query::<Engine>("SELECT payload FROM eventbox_dead_letter WHERE shard = $1 AND id = $2");
            let row = query.bind(key.shard).bind(key.id).fetch_optional(conn).await?;
            row.map(|row| Ok(row.try_get(0)?)).transpose()
        }
    }
}
