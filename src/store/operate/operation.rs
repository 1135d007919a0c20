//! `eventbox_operation`: what operators did.

use std::time::Duration;

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Time for which a repair stays in the record. A [`Runtime`](crate::runtime::Runtime) deletes older ones.
pub const OPERATION_RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A repair that an operator made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    pub id: Uuid,
    /// The database's time; it is not read when a repair is noted.
    pub at_us: i64,
    pub who: String,
    pub why: Option<String>,
    pub action: String,
    pub target: String,
    pub touched: i64,
}

/// Statements on the record of repairs.
pub trait OperationTable: Database {
    /// Notes a repair, or adds to the number of things that it touched.
    fn note_operation(
        conn: &mut Self::Connection,
        operation: &OperationRow,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Returns repairs before an id, the newest first.
    fn list_operations(
        conn: &mut Self::Connection,
        before: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<OperationRow>, Fault>> + Send;

    /// Deletes repairs with smaller ids, the oldest first; returns how many.
    fn prune_operations(
        conn: &mut Self::Connection,
        before: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    impl OperationTable for Engine {
        async fn note_operation(
            conn: &mut <Self as Database>::Connection,
            operation: &OperationRow,
        ) -> Result<(), Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_operation (id, at_us, who, why, action, target, touched)
                 VALUES ($1, ", now_us!(), ", $2, $3, $4, $5, $6)
                 ON CONFLICT (id) DO UPDATE SET touched = eventbox_operation.touched + excluded.touched"
            ));
            let query = query.bind(operation.id).bind(operation.who.as_str()).bind(operation.why.as_deref());
            let query = query.bind(operation.action.as_str()).bind(operation.target.as_str());
            query.bind(operation.touched).execute(conn).await?;
            Ok(())
        }

        async fn list_operations(
            conn: &mut <Self as Database>::Connection,
            before: Uuid,
            limit: i64,
        ) -> Result<Vec<OperationRow>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id, at_us, who, why, action, target, touched FROM eventbox_operation
                 WHERE id < $1 ORDER BY id DESC LIMIT $2 + 0",
            );
            let operation = |row: &<Engine as Database>::Row| {
                Ok(OperationRow {
                    id: row.try_get(0)?,
                    at_us: row.try_get(1)?,
                    who: row.try_get(2)?,
                    why: row.try_get(3)?,
                    action: row.try_get(4)?,
                    target: row.try_get(5)?,
                    touched: row.try_get(6)?,
                })
            };
            query.bind(before).bind(limit).fetch_all(conn).await?.iter().map(operation).collect()
        }

        async fn prune_operations(
            conn: &mut <Self as Database>::Connection,
            before: Uuid,
            limit: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_operation WHERE id IN (
                     SELECT id FROM eventbox_operation WHERE id < $1 ORDER BY id LIMIT $2 + 0
                 )",
            );
            Ok(query.bind(before).bind(limit).execute(conn).await?.rows_affected())
        }
    }
}
