//! Items on Postgres.

use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::item::ItemLookup;

const LIVING_EVENTS: &str = "SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const DELETE_NAMED_EVENTS: &str = "DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id IN (
    SELECT t.id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = ANY($3)
)";

impl ItemLookup for Postgres {
    async fn living_events(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>, Fault> {
        let query = sqlx::query_scalar(LIVING_EVENTS).bind(shard).bind(recipient).bind(ids);
        Ok(query.fetch_all(tx).await?)
    }

    async fn delete_named_events(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        names: &[&str],
    ) -> Result<u64, Fault> {
        let query = sqlx::query(DELETE_NAMED_EVENTS).bind(shard).bind(recipient).bind(names);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
