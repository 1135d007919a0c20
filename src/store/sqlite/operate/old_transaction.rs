//! Old transactions on SQLite.

use sqlx::{Pool, Sqlite};

use crate::store::fault::Fault;
use crate::store::operate::old_transaction::{OldTransaction, OldTransactionDialect};

impl OldTransactionDialect for Sqlite {
    // Differs: SQLite does not say which process reads a file, so there is no name. Readers do not keep removed rows in
    // the tables.
    async fn old_transactions(
        _pool: &Pool<Self>,
        _older_than_us: i64,
        _behind: i64,
        _limit: i64,
    ) -> Result<Vec<OldTransaction>, Fault> {
        Ok(Vec::new())
    }
}
