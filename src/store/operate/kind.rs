//! Kinds as a whole, on `eventbox_paused_kind`.

use sqlx::{Database, Row};

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Returns the kind of a recipient.
pub(in crate::store) fn kind_of(recipient: &str) -> &str {
    recipient.split_once('/').map_or(recipient, |(kind, _)| kind)
}

/// Statements on kinds.
pub trait KindTable: Database {
    /// Pauses a kind; false when it was paused.
    fn pause_kind(conn: &mut Self::Connection, kind: &str) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Resumes a kind; false when it was not paused.
    fn resume_kind(conn: &mut Self::Connection, kind: &str) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the kinds that are paused, sorted, with the time of their pause.
    fn list_paused_kinds(conn: &mut Self::Connection)
    -> impl Future<Output = Result<Vec<(String, i64)>, Fault>> + Send;
}

on_both_engines! {
    impl KindTable for Engine {
        async fn pause_kind(conn: &mut <Self as Database>::Connection, kind: &str) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_paused_kind (kind, paused_at_us) VALUES ($1, ", now_us!(), ")
                 ON CONFLICT DO NOTHING"
            ));
            Ok(query.bind(kind).execute(conn).await?.rows_affected() == 1)
        }

        async fn resume_kind(conn: &mut <Self as Database>::Connection, kind: &str) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>("DELETE FROM eventbox_paused_kind WHERE kind = $1");
            Ok(query.bind(kind).execute(conn).await?.rows_affected() == 1)
        }

        async fn list_paused_kinds(conn: &mut <Self as Database>::Connection) -> Result<Vec<(String, i64)>, Fault> {
            let query = sqlx::query::<Engine>("SELECT kind, paused_at_us FROM eventbox_paused_kind ORDER BY kind");
            query.fetch_all(conn).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }
    }
}
