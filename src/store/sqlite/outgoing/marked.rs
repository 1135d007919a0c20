//! Marked messages on SQLite.

use sqlx::{Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::macros::all_shards;
use crate::store::outgoing::marked::{MarkedDialect, MarkedMessage, MarkedWanted, marked};

/// Differs: the shards are a list, because there is no LATERAL. SQLite looks into the primary key once for each.
pub(crate) const MARKED_MESSAGES: &str = concat!(
    "SELECT shard, id, is_dead FROM (
         SELECT shard, id, false AS is_dead FROM eventbox_outbox
         WHERE shard IN (",
    all_shards!(),
    ") AND id > $2 AND (shard > $3 OR (shard = $3 AND id > $4))
           AND delivered_at_us IS NULL AND substr(id, 13) = $1
         UNION ALL
         SELECT shard, id, true FROM eventbox_dead_letter
         WHERE shard IN (",
    all_shards!(),
    ") AND id > $2 AND (shard > $3 OR (shard = $3 AND id > $4))
           AND recipient IS NULL AND substr(id, 13) = $1
     ) AS marked ORDER BY shard, id LIMIT $5 + 0"
);

impl MarkedDialect for Sqlite {
    async fn marked_messages(conn: &mut SqliteConnection, wanted: MarkedWanted) -> Result<Vec<MarkedMessage>, Fault> {
        let query = sqlx::query(MARKED_MESSAGES).bind(wanted.mark.to_be_bytes().to_vec()).bind(wanted.since);
        let query = query.bind(wanted.after.shard).bind(wanted.after.id).bind(wanted.limit);
        marked(&query.fetch_all(conn).await?)
    }
}
