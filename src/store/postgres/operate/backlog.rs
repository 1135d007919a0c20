//! Waiting events, by kind, on Postgres.

use sqlx::{PgConnection, Postgres, Row};

use crate::store::fault::Fault;
use crate::store::operate::backlog::{BacklogDialect, BacklogRow};
use crate::store::postgres::by_shard;

/// `0` is the character behind the slash. The inner limit ends the read of a shard, and the outer limit ends the read
/// of the shards.
pub(crate) const COUNT_BACKLOG: &str = "SELECT k.kind, c.events, c.oldest FROM unnest((SELECT $1::text[])) AS k (kind)
CROSS JOIN LATERAL (
    SELECT count(*) AS events, min(i.id::text)::uuid AS oldest FROM (
        SELECT e.id FROM generate_series(0, 255) AS s (shard)
        CROSS JOIN LATERAL (
            SELECT id FROM eventbox_event
            WHERE shard = s.shard::int2 AND recipient >= k.kind || '/' AND recipient < k.kind || '0' LIMIT $2
        ) e LIMIT $2
    ) i
) c";

/// Share of the table in this many pages, in percent.
const SAMPLED_PERCENT: &str = "SELECT least(100.0, 100.0 * $1::float8 * current_setting('block_size')::float8
    / greatest(1, pg_relation_size('eventbox_event')))::float8";

const ESTIMATE_BACKLOG: &str = "SELECT split_part(recipient, '/', 1), round(count(*) * 100.0 / $1::float8)::int8
FROM eventbox_event TABLESAMPLE SYSTEM ($1::float8) GROUP BY 1";

impl BacklogDialect for Postgres {
    async fn count_backlog(conn: &mut PgConnection, kinds: &[&str], limit: i64) -> Result<Vec<BacklogRow>, Fault> {
        if by_shard::is_on() {
            return by_shard::looking::count_backlog(conn, kinds, limit).await;
        }
        let rows = sqlx::query(COUNT_BACKLOG).bind(kinds).bind(limit).fetch_all(conn).await?;
        let row = |row: &sqlx::postgres::PgRow| {
            Ok(BacklogRow { kind: row.try_get(0)?, events: row.try_get(1)?, oldest: row.try_get(2)? })
        };
        rows.iter().map(row).collect()
    }

    async fn estimate_backlog(conn: &mut PgConnection, pages: u32) -> Result<Vec<(String, i64)>, Fault> {
        let percent: f64 = sqlx::query_scalar(SAMPLED_PERCENT).bind(f64::from(pages)).fetch_one(&mut *conn).await?;
        let rows = sqlx::query(ESTIMATE_BACKLOG).bind(percent).fetch_all(conn).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
