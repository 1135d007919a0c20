//! Dead letters on SQLite.

use sqlx::{Sqlite, SqliteConnection};

use super::outbox::json_keys;
use crate::store::fault::Fault;
use crate::store::outgoing::dead_letter::DeadLetterDialect;
use crate::store::outgoing::outbox::OutboxKey;
use crate::store::sqlite::now_us;

const DELETE_DEAD: &str = "DELETE FROM eventbox_dead_letter
 WHERE recipient IS NULL AND (shard, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM json_each($1))";

impl DeadLetterDialect for Sqlite {
    // Differs: a CTE cannot write, so a replay is two statements in the caller's transaction.
    async fn replay_dead(tx: &mut SqliteConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
        let query = sqlx::query(concat!(
            "INSERT OR IGNORE INTO eventbox_outbox
                 (shard, id, source, type, origin, attempts, created_at_us, next_attempt_at_us, last_code, last_error,
                  payload)
             SELECT shard, id, source, type, origin, 0, ",
            now_us!(),
            ", ",
            now_us!(),
            ", code, reason, payload FROM eventbox_dead_letter
             WHERE recipient IS NULL AND (shard, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM json_each($1))"
        ));
        let keys = json_keys(keys)?;
        let back = query.bind(&keys).execute(&mut *tx).await?.rows_affected();
        sqlx::query(DELETE_DEAD).bind(&keys).execute(tx).await?;
        Ok(back)
    }

    async fn delete_dead(conn: &mut SqliteConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
        Ok(sqlx::query(DELETE_DEAD).bind(json_keys(keys)?).execute(conn).await?.rows_affected())
    }
}
