//! Reads over many shards. Those that begin with `eventbox_anchor` ask every node at once; the others go shard by
//! shard.

use std::collections::{BTreeSet, HashMap};

use sqlx::{PgConnection, Pool, Postgres, Row};

use super::of_shards;
use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::operate::backlog::BacklogRow;
use crate::store::operate::fate::{EventKey, Places, places, places_of};
use crate::store::postgres::now_us;

/// Most shards that are looked into one by one, without asking all nodes first which shards have rows.
pub(super) const LOOKED_INTO: usize = 4;

const SHARDS_WITH_EVENTS: &str = "SELECT a.shard FROM eventbox_anchor a WHERE a.shard = ANY($1)
AND (SELECT 1 FROM eventbox_event e WHERE e.shard = a.shard LIMIT 1) IS NOT NULL";

/// `0` is the character behind the slash. The limit is that of each shard.
const COUNT_OF_NODES: &str = "SELECT a.shard, c.events, c.oldest FROM eventbox_anchor a
CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(i.id::text) AS oldest FROM (
        SELECT id FROM eventbox_event e
        WHERE e.shard = a.shard AND e.recipient >= $1::text || '/' AND e.recipient < $1::text || '0' LIMIT $2
    ) i
) c WHERE c.events > 0 ORDER BY a.shard";

/// The same in the shard `$1`.
const COUNT_OF_SHARD: &str = "SELECT count(*), min(i.id::text) FROM (
    SELECT id FROM eventbox_event e
    WHERE e.shard = $1 AND e.recipient >= $2::text || '/' AND e.recipient < $2::text || '0' LIMIT $3
) i";

/// As the statement for one node, with the same number of messages in each shard.
pub(in crate::store::postgres) const OLDEST_OF_NODES: &str = concat!(
    "SELECT greatest(",
    now_us!(),
    " - o.created_at_us, 0), o.attempts, o.last_code, o.last_error
FROM eventbox_anchor a
CROSS JOIN LATERAL (
    SELECT o.created_at_us, o.attempts, o.last_code, o.last_error FROM eventbox_outbox o
    WHERE o.shard = a.shard AND o.next_attempt_at_us < 9223372036854775807 AND o.delivered_at_us IS NULL
    ORDER BY o.next_attempt_at_us LIMIT $1 / 256
) o ORDER BY o.created_at_us LIMIT 1"
);

const LOCATE_OF_SHARD: &str = concat!(
    "SELECT ",
    places!("$1"),
    "
FROM unnest((SELECT $2::text[]), $3::uuid[]) WITH ORDINALITY AS w (recipient, id, place) ORDER BY w.place"
);

/// Returns those of the shards that have events.
pub(super) async fn shards_with_events(pool: &Pool<Postgres>, shards: Vec<i16>) -> Result<BTreeSet<i16>, Fault> {
    let query = sqlx::query_scalar(SHARDS_WITH_EVENTS).bind(shards);
    let found: Vec<i16> = answered(pool, async { Ok(query.fetch_all(&mut *hold(pool).await?).await?) }).await?;
    Ok(found.into_iter().collect())
}

/// Counts the events of kinds.
pub(in crate::store::postgres) async fn count_backlog(
    conn: &mut PgConnection,
    kinds: &[&str],
    limit: i64,
) -> Result<Vec<BacklogRow>, Fault> {
    let mut counted = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let rows = sqlx::query(COUNT_OF_NODES).bind(kind).bind(limit).fetch_all(&mut *conn).await?;
        let mut row = BacklogRow { kind: (*kind).to_owned(), events: 0, oldest: None };
        for of_shard in &rows {
            let left = limit.saturating_sub(row.events);
            let (events, oldest) = match of_shard.try_get::<i64, _>(1)? {
                _ if left <= 0 => break,
                events if events <= left => (events, of_shard.try_get::<Option<String>, _>(2)?),
                _ => {
                    let query = sqlx::query(COUNT_OF_SHARD).bind(of_shard.try_get::<i16, _>(0)?).bind(kind).bind(left);
                    let last = query.fetch_one(&mut *conn).await?;
                    (last.try_get(0)?, last.try_get(1)?)
                }
            };
            row.events = row.events.saturating_add(events);
            row.oldest = row.oldest.into_iter().chain(oldest.and_then(|id| id.parse().ok())).min();
        }
        counted.push(row);
    }
    Ok(counted)
}

/// Returns the tables that have these events, in the order of the keys. The events of each shard are of one snapshot.
pub(in crate::store::postgres) async fn locate_events(
    conn: &mut PgConnection,
    keys: &[EventKey<'_>],
) -> Result<Vec<Places>, Fault> {
    let mut located: HashMap<usize, Places> = HashMap::with_capacity(keys.len());
    for (shard, part) in of_shards(keys, |key| key.shard) {
        let query = sqlx::query(LOCATE_OF_SHARD)
            .bind(shard)
            .bind(part.iter().map(|(_, key)| key.recipient).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, key)| key.id).collect::<Vec<_>>());
        for ((place, _), row) in part.iter().zip(query.fetch_all(&mut *conn).await?) {
            located.insert(*place, places_of!(row, 0));
        }
    }
    Ok((0..keys.len()).filter_map(|place| located.remove(&place)).collect())
}
