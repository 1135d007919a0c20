//! What there is of each kind.

use sqlx::{Database, Row};

use super::one_shard::OneShardTable;
use crate::store::connect::schema::Schema;
use crate::store::fault::Fault;
use crate::store::macros::{all_shards, on_both_engines};

/// Counts of one kind, each at most the limit of the count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindCounts {
    /// Timers.
    pub timers: i64,
    /// When the first of the counted timers is due.
    pub next_due_at_us: Option<i64>,
    /// Recipients with failures.
    pub failing: i64,
    /// Recipients that are paused.
    pub paused: i64,
    /// Events in quarantine.
    pub quarantined: i64,
}

/// Statements that look at kinds.
pub trait KindViewTable: Database {
    /// Returns the kinds of the recipients that have events, timers, failures or events in quarantine, sorted, at most
    /// `limit` of each shard and table.
    fn list_kinds(conn: &mut Self::Connection, limit: i64) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;

    /// Counts what there is of a kind besides events.
    fn count_kind(
        conn: &mut Self::Connection,
        kind: &str,
        limit: i64,
    ) -> impl Future<Output = Result<KindCounts, Fault>> + Send;
}

/// The statement of [`KindViewTable::list_kinds`] for one table; skips from kind to kind along the key of each shard.
/// `0` is the character behind the slash.
macro_rules! list_kinds {
    ($table:literal) => {
        concat!(
            "WITH RECURSIVE shards (shard) AS (
                 SELECT 0 UNION ALL SELECT shard + 1 FROM shards WHERE shard < 255
             ), step (shard, recipient, n) AS (
                 SELECT s.shard, (SELECT e.recipient FROM ",
            $table,
            " e
                                  WHERE e.shard = s.shard AND e.recipient >= '' ORDER BY e.recipient LIMIT 1), 1
                 FROM shards s
                 UNION ALL
                 SELECT step.shard, (SELECT e.recipient FROM ",
            $table,
            " e
                                     WHERE e.shard = step.shard AND e.recipient >= ",
            kind!("step.recipient"),
            " || '0'
                                     ORDER BY e.recipient LIMIT 1), step.n + 1
                 FROM step WHERE step.recipient IS NOT NULL AND step.n < $1
             )
             SELECT DISTINCT ",
            kind!("recipient"),
            " AS kind FROM step WHERE recipient IS NOT NULL"
        )
    };
}

on_both_engines! {
    pub(crate) const EVENT_KINDS: &str = list_kinds!("eventbox_event");
    pub(crate) const TIMER_KINDS: &str = list_kinds!("eventbox_timer");
    pub(crate) const FAILURE_KINDS: &str = list_kinds!("eventbox_failure");
    pub(crate) const QUARANTINE_KINDS: &str = list_kinds!("eventbox_dead_letter");

    /// Its plan must look into each shard by a key.
    pub(crate) const COUNT_KIND: &str = concat!(
        "SELECT count(*), min(due_at_us),
         (SELECT count(*) FROM (SELECT 1 FROM eventbox_failure WHERE shard IN (", all_shards!(), ")
              AND recipient >= $1 AND recipient < $2 AND attempts > 0 LIMIT $3 + 0) failing),
         (SELECT count(*) FROM (SELECT 1 FROM eventbox_failure WHERE shard IN (", all_shards!(), ")
              AND recipient >= $1 AND recipient < $2 AND paused LIMIT $3 + 0) paused),
         (SELECT count(*) FROM (SELECT 1 FROM eventbox_dead_letter WHERE shard IN (", all_shards!(), ")
              AND recipient >= $1 AND recipient < $2 LIMIT $3 + 0) quarantined)
         FROM (SELECT due_at_us FROM eventbox_timer WHERE shard IN (", all_shards!(), ")
               AND recipient >= $1 AND recipient < $2 LIMIT $3 + 0) timers"
    );

    impl KindViewTable for Engine {
        async fn list_kinds(conn: &mut <Self as Database>::Connection, limit: i64) -> Result<Vec<String>, Fault> {
            if Engine::is_by_shard() {
                return Ok(Self::list_kinds_by_shard(conn, limit).await?.into_iter().collect());
            }
            let mut kinds = std::collections::BTreeSet::new();
            for sql in [EVENT_KINDS, TIMER_KINDS, FAILURE_KINDS, QUARANTINE_KINDS] {
                kinds.extend(sqlx::query_scalar::<Engine, String>(sql).bind(limit).fetch_all(&mut *conn).await?);
            }
            Ok(kinds.into_iter().collect())
        }

        async fn count_kind(
            conn: &mut <Self as Database>::Connection,
            kind: &str,
            limit: i64,
        ) -> Result<KindCounts, Fault> {
            let (first, behind) = (format!("{kind}/"), format!("{kind}0"));
            let query = sqlx::query::<Engine>(COUNT_KIND).bind(first).bind(behind).bind(limit);
            let row = query.fetch_one(conn).await?;
            Ok(KindCounts {
                timers: row.try_get(0)?,
                next_due_at_us: row.try_get(1)?,
                failing: row.try_get(2)?,
                paused: row.try_get(3)?,
                quarantined: row.try_get(4)?,
            })
        }
    }
}
