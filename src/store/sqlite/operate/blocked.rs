//! Locks on SQLite.

use sqlx::{Pool, Sqlite};

use crate::store::fault::Fault;
use crate::store::operate::blocked::BlockedDialect;

impl BlockedDialect for Sqlite {
    // Differs: a transaction that has begun has the only lock.
    async fn waits_for_a_lock(_pool: &Pool<Self>, _for_us: i64) -> Result<bool, Fault> {
        Ok(false)
    }
}
