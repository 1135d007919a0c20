//! The places of events on SQLite.

use sqlx::{Row, Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::operate::fate::{EventKey, FateDialect, Places, places, places_of};
use crate::store::sqlite::params::json::{hex, rows_json};

/// Differs: no arrays.
pub(crate) const LOCATE_EVENTS: &str = concat!(
    "WITH w AS MATERIALIZED (
    SELECT f.key AS place, f.value ->> 0 AS shard, f.value ->> 1 AS recipient, unhex(f.value ->> 2) AS id
    FROM json_each($1) f
)
SELECT ",
    places!("w.shard"),
    " FROM w ORDER BY w.place"
);

impl FateDialect for Sqlite {
    async fn locate_events(conn: &mut SqliteConnection, keys: &[EventKey<'_>]) -> Result<Vec<Places>, Fault> {
        let columns: Vec<_> = keys.iter().map(|key| (key.shard, key.recipient, hex(key.id))).collect();
        let rows = sqlx::query(LOCATE_EVENTS).bind(rows_json(&columns)?).fetch_all(conn).await?;
        rows.iter().map(|row| Ok(places_of!(row, 0))).collect()
    }
}
