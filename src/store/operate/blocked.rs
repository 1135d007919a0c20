//! Whether this program's own statements wait for a lock that somebody else holds.

use sqlx::Pool;

use crate::store::fault::Fault;

/// Asks the server about locks.
pub trait BlockedDialect: sqlx::Database {
    /// Whether a statement of this role in this database has waited for a lock for so long.
    fn waits_for_a_lock(pool: &Pool<Self>, for_us: i64) -> impl Future<Output = Result<bool, Fault>> + Send;
}
