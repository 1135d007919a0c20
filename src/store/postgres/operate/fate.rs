//! The places of events on Postgres.

use sqlx::{PgConnection, Postgres, Row};

use crate::store::fault::Fault;
use crate::store::operate::fate::{EventKey, FateDialect, Places, places, places_of};
use crate::store::postgres::by_shard;

/// Its plan must look every event up by the keys.
pub(crate) const LOCATE_EVENTS: &str = concat!(
    "SELECT ",
    places!("w.shard"),
    "
FROM unnest((SELECT $1::int2[]), $2::text[], $3::uuid[]) WITH ORDINALITY
    AS w (shard, recipient, id, place) ORDER BY w.place"
);

impl FateDialect for Postgres {
    async fn locate_events(conn: &mut PgConnection, keys: &[EventKey<'_>]) -> Result<Vec<Places>, Fault> {
        if by_shard::is_on() {
            return by_shard::looking::locate_events(conn, keys).await;
        }
        let query = sqlx::query(LOCATE_EVENTS)
            .bind(keys.iter().map(|key| key.shard).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.recipient).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.id).collect::<Vec<_>>());
        query.fetch_all(conn).await?.iter().map(|row| Ok(places_of!(row, 0))).collect()
    }
}
