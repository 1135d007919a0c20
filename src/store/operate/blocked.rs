//! Whether a statement of this program waits for a lock that another session holds.

use sqlx::Pool;

use crate::store::fault::Fault;

/// Asks the server about locks.
pub trait BlockedDialect: sqlx::Database {
    /// Returns whether a statement of this role in this database has waited for a lock for at least that time.
    fn waits_for_a_lock(pool: &Pool<Self>, for_us: i64) -> impl Future<Output = Result<bool, Fault>> + Send;
}
