//! Waiting events, by kind, on SQLite.

use sqlx::{Row, Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::operate::backlog::{BacklogDialect, BacklogRow};
use crate::store::sqlite::params::json::texts_json;

/// Differs: no LATERAL, so the shards are a list, and one row of each shard has the count and the smallest id.
pub(crate) const COUNT_BACKLOG: &str = "SELECT k.value, c.value ->> 0, unhex(c.value ->> 1)
FROM json_each($1) k, json_each((
    SELECT json_array(json_array(count(*), hex(min(id)))) FROM (
        SELECT id FROM eventbox_event
        WHERE shard IN (SELECT value FROM json_each($2))
          AND recipient >= k.value || '/' AND recipient < k.value || '0' LIMIT $3 + 0
    )
)) c";

impl BacklogDialect for Sqlite {
    async fn count_backlog(conn: &mut SqliteConnection, kinds: &[&str], limit: i64) -> Result<Vec<BacklogRow>, Fault> {
        let shards: Vec<u8> = (0..=u8::MAX).collect();
        let shards = serde_json::to_string(&shards).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let query = sqlx::query(COUNT_BACKLOG).bind(texts_json(kinds)?).bind(shards).bind(limit);
        let row = |row: &sqlx::sqlite::SqliteRow| {
            let events: i64 = row.try_get(1)?;
            let oldest = if events > 0 { Some(row.try_get(2)?) } else { None };
            Ok(BacklogRow { kind: row.try_get(0)?, events, oldest })
        };
        query.fetch_all(conn).await?.iter().map(row).collect()
    }

    // Differs: SQLite reads no sample of a table.
    async fn estimate_backlog(_conn: &mut SqliteConnection, _pages: u32) -> Result<Vec<(String, i64)>, Fault> {
        Ok(Vec::new())
    }
}
