//! `eventbox_tombstone`: the remembered names, and how they are forgotten.

use sqlx::{Database, Row};

use crate::store::connect::schema::Schema;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A part of the tombstones of one shard, in key order: behind `after`, up to `until`.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pub shard: i16,
    pub after: (&'a str, &'a str),
    pub until: (&'a str, &'a str),
    pub limit: i64,
    pub delay_us: i64,
}

/// Result of a slice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PrunedSlice {
    /// The last checked (recipient, name); `None` when there was none.
    pub last: Option<(String, String)>,
    pub walked: i64,
    pub stamped: i64,
    pub revived: i64,
    pub deleted: i64,
}

/// Statements on tombstones that differ between the engines.
pub trait TombstoneDialect: Database {
    /// Checks a slice of tombstones. Stamps those whose event is gone, clears the stamp of those whose event is there,
    /// and deletes those whose event is gone and whose stamp is older than the delay. A stamp in the future is of a
    /// clock that has gone back since, and is written again.
    fn prune_tombstones(
        tx: &mut Self::Connection,
        slice: Slice<'_>,
    ) -> impl Future<Output = Result<PrunedSlice, Fault>> + Send;
}

/// Statements on tombstones that both engines accept.
pub trait TombstoneTable: TombstoneDialect {
    /// Returns the shards that have tombstones, in order.
    fn list_tombstone_shards(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<i16>, Fault>> + Send;

    /// Returns the last (recipient, name) of a shard.
    fn last_tombstone(
        conn: &mut Self::Connection,
        shard: i16,
    ) -> impl Future<Output = Result<Option<(String, String)>, Fault>> + Send;

    /// Returns the last name of a recipient.
    fn last_name(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Returns the names of a recipient whose stamps are older than the delay, in order.
    fn expired_names(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        delay_us: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;
}

/// The statement of [`TombstoneTable::list_tombstone_shards`]: skips from shard to shard along the primary key.
pub(crate) const LIST_TOMBSTONE_SHARDS: &str = "WITH RECURSIVE step (shard) AS (
    SELECT (SELECT t.shard FROM eventbox_tombstone t WHERE t.shard >= 0 ORDER BY t.shard LIMIT 1)
    UNION ALL
    SELECT (SELECT t.shard FROM eventbox_tombstone t WHERE t.shard > step.shard ORDER BY t.shard LIMIT 1)
    FROM step WHERE step.shard IS NOT NULL
) SELECT shard FROM step WHERE shard IS NOT NULL";

/// The same for tables that are cut by `shard`, where each node looks into its own shards.
pub(crate) const TOMBSTONE_SHARDS_OF_NODES: &str = "SELECT a.shard FROM eventbox_anchor a WHERE (
    SELECT 1 FROM eventbox_tombstone t WHERE t.shard = a.shard LIMIT 1
) IS NOT NULL ORDER BY a.shard";

on_both_engines! {
    impl TombstoneTable for Engine {
        async fn list_tombstone_shards(conn: &mut <Self as Database>::Connection) -> Result<Vec<i16>, Fault> {
            let sql = if Engine::is_by_shard() { TOMBSTONE_SHARDS_OF_NODES } else { LIST_TOMBSTONE_SHARDS };
            let rows = sqlx::query::<Engine>(sql).fetch_all(conn).await?;
            rows.into_iter().map(|row| Ok(row.try_get(0)?)).collect()
        }

        async fn last_tombstone(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
        ) -> Result<Option<(String, String)>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT recipient, name FROM eventbox_tombstone WHERE shard = $1
                 ORDER BY recipient DESC, name DESC LIMIT 1",
            );
            let row = query.bind(shard).fetch_optional(conn).await?;
            row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        }

        async fn last_name(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Option<String>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT name FROM eventbox_tombstone WHERE shard = $1 AND recipient = $2 ORDER BY name DESC LIMIT 1",
            );
            let row = query.bind(shard).bind(recipient).fetch_optional(conn).await?;
            row.map(|row| Ok(row.try_get(0)?)).transpose()
        }

        async fn expired_names(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            delay_us: i64,
            limit: i64,
        ) -> Result<Vec<String>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT name FROM eventbox_tombstone
                 WHERE shard = $1 AND recipient = $2 AND gone_at_us <= ", now_us!(), " - $3 ORDER BY name LIMIT $4 + 0"
            ));
            let rows = query.bind(shard).bind(recipient).bind(delay_us).bind(limit).fetch_all(conn).await?;
            rows.into_iter().map(|row| Ok(row.try_get(0)?)).collect()
        }
    }
}
