//! One recipient in full, without the values of its events.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// An event without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHead {
    pub id: Uuid,
    pub name: Option<String>,
    /// Length of the value.
    pub bytes: i64,
    pub origin: Option<String>,
}

/// A timer without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerHead {
    pub event: EventHead,
    pub due_at_us: i64,
}

/// A name that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRow {
    pub name: String,
    pub id: Uuid,
    pub gone_at_us: Option<i64>,
}

/// Statements that look at one recipient.
pub trait RecipientViewTable: Database {
    /// Returns the database's time.
    fn database_time_us(conn: &mut Self::Connection) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Counts the events of a box, at most `limit`, and returns the oldest.
    fn count_box(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        limit: i64,
    ) -> impl Future<Output = Result<(i64, Option<Uuid>), Fault>> + Send;

    /// Returns the first events of a box behind `after`, oldest first.
    fn event_heads(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<EventHead>, Fault>> + Send;

    /// Returns the timers of a recipient, the first due first, of at most `scan` of them.
    fn timer_heads(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        scan: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<TimerHead>, Fault>> + Send;

    /// Counts the timers of a recipient.
    fn count_timers(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Returns the names of a recipient behind `after`, in order.
    fn list_names(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: &str,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<NameRow>, Fault>> + Send;
}

fn head<R: Row>(row: &R) -> Result<EventHead, Fault>
where
    usize: sqlx::ColumnIndex<R>,
    Uuid: for<'a> sqlx::Decode<'a, R::Database> + sqlx::Type<R::Database>,
    Option<String>: for<'a> sqlx::Decode<'a, R::Database> + sqlx::Type<R::Database>,
    i64: for<'a> sqlx::Decode<'a, R::Database> + sqlx::Type<R::Database>,
{
    Ok(EventHead { id: row.try_get(0)?, name: row.try_get(1)?, bytes: row.try_get(2)?, origin: row.try_get(3)? })
}

on_both_engines! {
    impl RecipientViewTable for Engine {
        async fn database_time_us(conn: &mut <Self as Database>::Connection) -> Result<i64, Fault> {
            Ok(sqlx::query_scalar::<Engine, i64>(concat!("SELECT ", now_us!())).fetch_one(conn).await?)
        }

        async fn count_box(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            limit: i64,
        ) -> Result<(i64, Option<Uuid>), Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT count(*),
                        (SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2 ORDER BY id LIMIT 1)
                 FROM (SELECT 1 FROM eventbox_event WHERE shard = $1 AND recipient = $2 LIMIT $3 + 0) counted",
            );
            let row = query.bind(shard).bind(recipient).bind(limit).fetch_one(conn).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        }

        async fn event_heads(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: Uuid,
            limit: i64,
        ) -> Result<Vec<EventHead>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id, name, CAST(octet_length(value) AS bigint), origin FROM eventbox_event
                 WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0",
            );
            let rows = query.bind(shard).bind(recipient).bind(after).bind(limit).fetch_all(conn).await?;
            rows.iter().map(head).collect()
        }

        async fn timer_heads(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            scan: i64,
            limit: i64,
        ) -> Result<Vec<TimerHead>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id, name, bytes, origin, due_at_us FROM (
                     SELECT id, name, CAST(octet_length(value) AS bigint) AS bytes, origin, due_at_us
                     FROM eventbox_timer WHERE shard = $1 AND recipient = $2 ORDER BY id LIMIT $3 + 0
                 ) t ORDER BY due_at_us, id LIMIT $4 + 0",
            );
            let rows = query.bind(shard).bind(recipient).bind(scan).bind(limit).fetch_all(conn).await?;
            rows.iter().map(|row| Ok(TimerHead { event: head(row)?, due_at_us: row.try_get(4)? })).collect()
        }

        async fn count_timers(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<i64, Fault> {
            let query = sqlx::query_scalar::<Engine, i64>(
                "SELECT count(*) FROM eventbox_timer WHERE shard = $1 AND recipient = $2",
            );
            Ok(query.bind(shard).bind(recipient).fetch_one(conn).await?)
        }

        async fn list_names(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: &str,
            limit: i64,
        ) -> Result<Vec<NameRow>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT name, id, gone_at_us FROM eventbox_tombstone
                 WHERE shard = $1 AND recipient = $2 AND name > $3 ORDER BY name LIMIT $4 + 0",
            );
            let rows = query.bind(shard).bind(recipient).bind(after).bind(limit).fetch_all(conn).await?;
            let name = |row: &<Engine as Database>::Row| {
                Ok(NameRow { name: row.try_get(0)?, id: row.try_get(1)?, gone_at_us: row.try_get(2)? })
            };
            rows.iter().map(name).collect()
        }
    }
}
