//! Items on Postgres.

use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::event::among_ids;
use crate::store::fault::Fault;
use crate::store::inbox::item::ItemDialect;
use crate::store::postgres::by_shard;

/// Its plan must use the primary key. With the shard, because a cluster that cuts the tables has the same `ctid` in
/// several of its own shards: a process that does not know the layout must not get rows of other events.
const LIVING_EVENTS: &str = concat!("SELECT id FROM eventbox_event WHERE shard = $1 AND ", among_ids!());

/// Names and events are looked up one by one, see [`DELETE_EVENTS`](super::event::DELETE_EVENTS).
const DELETE_NAMED_EVENTS: &str = "DELETE FROM eventbox_event WHERE ctid = ANY (ARRAY(
    SELECT e.ctid FROM unnest((SELECT $3::text[])) AS wanted (name)
    CROSS JOIN LATERAL (
        SELECT id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = wanted.name LIMIT 1
    ) t
    CROSS JOIN LATERAL (
        SELECT ctid FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id = t.id LIMIT 1
    ) e
))";

impl ItemDialect for Postgres {
    async fn living_events(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::living_events(tx, (shard, recipient), ids).await;
        }
        let query = sqlx::query_scalar(LIVING_EVENTS).bind(shard).bind(recipient).bind(ids);
        Ok(query.fetch_all(tx).await?)
    }

    async fn delete_named_events(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        names: &[&str],
    ) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::delete_named_events(tx, (shard, recipient), names).await;
        }
        let query = sqlx::query(DELETE_NAMED_EVENTS).bind(shard).bind(recipient).bind(names);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
