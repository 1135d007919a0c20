//! Marked messages on Postgres.

use sqlx::{PgConnection, Postgres};

use crate::store::fault::Fault;
use crate::store::outgoing::marked::{MarkedDialect, MarkedMessage, MarkedWanted, marked};
use crate::store::postgres::by_shard;

/// Its plan must look into each shard by the primary keys, which the limit of each shard ensures.
pub(crate) const MARKED_MESSAGES: &str =
    "SELECT m.shard, m.id, m.is_dead FROM generate_series($3::int4, 255) AS s (shard)
     CROSS JOIN LATERAL (
         (SELECT o.shard, o.id, false AS is_dead FROM eventbox_outbox o
          WHERE o.shard = s.shard::int2 AND o.id > $2 AND (o.shard > $3 OR o.id > $4)
            AND o.delivered_at_us IS NULL AND substr(uuid_send(o.id), 13) = $1
          ORDER BY o.id LIMIT $5)
         UNION ALL
         (SELECT d.shard, d.id, true FROM eventbox_dead_letter d
          WHERE d.shard = s.shard::int2 AND d.id > $2 AND (d.shard > $3 OR d.id > $4)
            AND d.recipient IS NULL AND substr(uuid_send(d.id), 13) = $1
          ORDER BY d.id LIMIT $5)
     ) m ORDER BY m.shard, m.id LIMIT $5";

impl MarkedDialect for Postgres {
    async fn marked_messages(conn: &mut PgConnection, wanted: MarkedWanted) -> Result<Vec<MarkedMessage>, Fault> {
        if by_shard::is_on() {
            return by_shard::messages::marked_messages(conn, wanted).await;
        }
        let query = sqlx::query(MARKED_MESSAGES).bind(wanted.mark.to_be_bytes().to_vec()).bind(wanted.since);
        let query = query.bind(i32::from(wanted.after.shard)).bind(wanted.after.id).bind(wanted.limit);
        marked(&query.fetch_all(conn).await?)
    }
}
