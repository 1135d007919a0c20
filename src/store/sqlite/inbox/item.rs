//! Items on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::inbox::item::ItemDialect;
use crate::store::sqlite::params::json::{ids_json, texts_json};

/// Differs: no arrays, here and below.
const LIVING_EVENTS: &str = "SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2
 AND id IN (SELECT unhex(value) FROM json_each($3))";

const DELETE_NAMED_EVENTS: &str = "DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id IN (
    SELECT t.id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2
    AND t.name IN (SELECT value FROM json_each($3))
)";

impl ItemDialect for Sqlite {
    async fn living_events(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>, Fault> {
        let query = sqlx::query_scalar(LIVING_EVENTS).bind(shard).bind(recipient).bind(ids_json(ids)?);
        Ok(query.fetch_all(tx).await?)
    }

    async fn delete_named_events(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        names: &[&str],
    ) -> Result<u64, Fault> {
        let query = sqlx::query(DELETE_NAMED_EVENTS).bind(shard).bind(recipient).bind(texts_json(names)?);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
