//! `eventbox_checkpoint`: how far a stream was read.

use sqlx::Database;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

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
    }
}
