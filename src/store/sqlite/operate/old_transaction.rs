//! Old transactions on SQLite.

use sqlx::{Pool, Sqlite};

use crate::store::fault::Fault;
use crate::store::operate::old_transaction::{OldTransaction, OldTransactionDialect};

impl OldTransactionDialect for Sqlite {
    // Differs: SQLite does not say which process reads a file, so there is no name. A removed row is no longer in the
    // tables, whatever process reads.
    async fn old_transactions(
        _pool: &Pool<Self>,
        _older_than_us: i64,
        _behind: i64,
        _limit: i64,
    ) -> Result<Vec<OldTransaction>, Fault> {
        Ok(Vec::new())
    }
}
