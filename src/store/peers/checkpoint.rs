//! `eventbox_checkpoint`: how far a stream of a peer, or a partition of a source, was read.

use sqlx::{Database, Row};

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Beginning of the column `peer` in the checkpoints of sources. The id of a peer has no colon.
pub(crate) const SOURCE_PREFIX: &str = "source:";

/// Largest number of bytes of a position of a source.
pub(crate) const MAX_POSITION_BYTES: usize = 1_000;

/// A checkpoint of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Name of the source, behind [`SOURCE_PREFIX`].
    pub owner: String,
    pub partition: String,
    pub position: String,
    pub moved_at_us: i64,
}

/// Statements on checkpoints.
pub trait CheckpointTable: Database {
    /// Returns the position of a stream.
    fn checkpoint(
        conn: &mut Self::Connection,
        peer: &str,
        stream: &str,
    ) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Moves the position of a stream from `from` to `to`. False when it stands elsewhere: another process reads the
    /// stream.
    fn move_checkpoint(
        tx: &mut Self::Connection,
        peer: &str,
        stream: &str,
        from: Option<&str>,
        to: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Removes a checkpoint, which stands at `from`. False when it stands elsewhere.
    fn remove_checkpoint(
        tx: &mut Self::Connection,
        peer: &str,
        stream: &str,
        from: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the checkpoints of sources, in the order of their keys.
    fn list_source_checkpoints(
        conn: &mut Self::Connection,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<CheckpointRow>, Fault>> + Send;
}

on_both_engines! {
    impl CheckpointTable for Engine {
        async fn checkpoint(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            stream: &str,
        ) -> Result<Option<String>, Fault> {
            let query = sqlx::query_scalar::<Engine, String>(
                "SELECT position FROM eventbox_checkpoint WHERE peer = $1 AND stream = $2",
            );
            Ok(query.bind(peer).bind(stream).fetch_optional(conn).await?)
        }

        async fn move_checkpoint(
            tx: &mut <Self as Database>::Connection,
            peer: &str,
            stream: &str,
            from: Option<&str>,
            to: &str,
        ) -> Result<bool, Fault> {
            let sql = match from {
                None => concat!(
                    "INSERT INTO eventbox_checkpoint (peer, stream, position, moved_at_us)
                     VALUES ($1, $2, $3, ", now_us!(), ") ON CONFLICT (peer, stream) DO NOTHING"
                ),
                Some(_) => concat!(
                    "UPDATE eventbox_checkpoint SET position = $3, moved_at_us = ", now_us!(),
                    " WHERE peer = $1 AND stream = $2 AND position = $4"
                ),
            };
            let query = sqlx::query::<Engine>(sql).bind(peer).bind(stream).bind(to);
            let query = match from {
                None => query,
                Some(from) => query.bind(from),
            };
            Ok(query.execute(tx).await?.rows_affected() == 1)
        }

        async fn remove_checkpoint(
            tx: &mut <Self as Database>::Connection,
            peer: &str,
            stream: &str,
            from: &str,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_checkpoint WHERE peer = $1 AND stream = $2 AND position = $3",
            );
            Ok(query.bind(peer).bind(stream).bind(from).execute(tx).await?.rows_affected() == 1)
        }

        async fn list_source_checkpoints(
            conn: &mut <Self as Database>::Connection,
            limit: i64,
        ) -> Result<Vec<CheckpointRow>, Fault> {
            // `;` follows the colon of the prefix.
            let query = sqlx::query::<Engine>(
                "SELECT peer, stream, position, moved_at_us FROM eventbox_checkpoint
                 WHERE peer >= 'source:' AND peer < 'source;' ORDER BY peer, stream LIMIT $1 + 0",
            );
            let rows = query.bind(limit).fetch_all(conn).await?;
            let row = |row: &<Engine as Database>::Row| {
                Ok(CheckpointRow {
                    owner: row.try_get(0)?,
                    partition: row.try_get(1)?,
                    position: row.try_get(2)?,
                    moved_at_us: row.try_get(3)?,
                })
            };
            rows.iter().map(row).collect()
        }
    }
}
