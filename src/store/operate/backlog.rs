//! Waiting events, by kind.

use sqlx::Database;
use uuid::Uuid;

use crate::store::fault::Fault;

/// Waiting events of one kind, as far as the count went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogRow {
    pub kind: String,
    /// Number of events, at most the limit of the count.
    pub events: i64,
    /// Smallest id of the counted events.
    pub oldest: Option<Uuid>,
}

/// Statements that count waiting events.
pub trait BacklogDialect: Database {
    /// Counts the events of these kinds, at most `limit` of each, through the primary key.
    fn count_backlog(
        conn: &mut Self::Connection,
        kinds: &[&str],
        limit: i64,
    ) -> impl Future<Output = Result<Vec<BacklogRow>, Fault>> + Send;

    /// Estimates the number of events of each kind from about `pages` pages of the table. Empty when the engine cannot
    /// estimate.
    fn estimate_backlog(
        conn: &mut Self::Connection,
        pages: u32,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, Fault>> + Send;
}
