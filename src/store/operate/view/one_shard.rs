//! The lists of an operator below one shard, for tables that a cluster cuts by `shard`.

use std::collections::BTreeSet;

use sqlx::{Database, Row};

use super::boxes::{BoxRow, BoxesFrom, Listed, NEXT};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// The shards from `$1` on that have a row of a table.
macro_rules! filled_shards {
    ($table:literal) => {
        concat!(
            "SELECT a.shard FROM eventbox_anchor a WHERE a.shard >= $1 AND (SELECT 1 FROM ",
            $table,
            " x WHERE x.shard = a.shard LIMIT 1) IS NOT NULL ORDER BY a.shard"
        )
    };
}

const WITH_STATES: &str = filled_shards!("eventbox_state");
const WITH_EVENTS: &str = filled_shards!("eventbox_event");
const WITH_TIMERS: &str = filled_shards!("eventbox_timer");
const WITH_FAILURES: &str = filled_shards!("eventbox_failure");
const WITH_DEAD_LETTERS: &str = filled_shards!("eventbox_dead_letter");

/// The recipients of one table in the shard `$1`, as `list_boxes!` lists those of many shards.
macro_rules! boxes_of_shard {
    ($table:literal, $condition:literal) => {
        concat!(
            "WITH RECURSIVE step (recipient, n) AS (
                 SELECT (SELECT e.recipient FROM ",
            $table,
            " e WHERE e.shard = $1 AND e.recipient >= $2 AND e.recipient < $3",
            $condition,
            " ORDER BY e.recipient LIMIT 1), 1
                 UNION ALL
                 SELECT (SELECT e.recipient FROM ",
            $table,
            " e WHERE e.shard = $1 AND e.recipient >= step.recipient || $4 AND e.recipient < $3",
            $condition,
            " ORDER BY e.recipient LIMIT 1), step.n + 1
                 FROM step WHERE step.recipient IS NOT NULL AND step.n < $5
             )
             SELECT step.recipient,
                    (SELECT count(*) FROM (SELECT 1 FROM eventbox_event e
                         WHERE e.shard = $1 AND e.recipient = step.recipient LIMIT $6 + 0) c),
                    (SELECT e.id FROM eventbox_event e
                     WHERE e.shard = $1 AND e.recipient = step.recipient ORDER BY e.id LIMIT 1),
                    coalesce(f.attempts, 0), coalesce(f.next_attempt_at_us, 0), f.error, coalesce(f.paused, false),
                    (SELECT count(*) FROM (SELECT 1 FROM eventbox_dead_letter d
                         WHERE d.shard = $1 AND d.recipient = step.recipient LIMIT $6 + 0) q)
             FROM step LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = step.recipient
             WHERE step.recipient IS NOT NULL ORDER BY step.recipient"
        )
    };
}

/// The kinds of one table in the shard `$1`; `0` is the character behind the slash.
macro_rules! kinds_of_shard {
    ($table:literal) => {
        concat!(
            "WITH RECURSIVE step (recipient, n) AS (
                 SELECT (SELECT e.recipient FROM ",
            $table,
            " e WHERE e.shard = $1 AND e.recipient >= '' ORDER BY e.recipient LIMIT 1), 1
                 UNION ALL
                 SELECT (SELECT e.recipient FROM ",
            $table,
            " e WHERE e.shard = $1 AND e.recipient >= ",
            kind!("step.recipient"),
            " || '0' ORDER BY e.recipient LIMIT 1), step.n + 1
                 FROM step WHERE step.recipient IS NOT NULL AND step.n < $2
             )
             SELECT DISTINCT ",
            kind!("recipient"),
            " AS kind FROM step WHERE recipient IS NOT NULL"
        )
    };
}

/// Statements of an operator's lists below one shard.
pub(crate) trait OneShardTable: Database {
    /// Does what [`BoxesTable::list_boxes`](super::boxes::BoxesTable::list_boxes) does, shard by shard.
    fn list_boxes_by_shard(
        conn: &mut Self::Connection,
        from: BoxesFrom<'_>,
    ) -> impl Future<Output = Result<Vec<BoxRow>, Fault>> + Send;

    /// Does what [`KindViewTable::list_kinds`](super::kinds::KindViewTable::list_kinds) does, shard by shard.
    fn list_kinds_by_shard(
        conn: &mut Self::Connection,
        limit: i64,
    ) -> impl Future<Output = Result<BTreeSet<String>, Fault>> + Send;
}

on_both_engines! {
    const KNOWN_OF_SHARD: &str = boxes_of_shard!("eventbox_state", "");
    const WAITING_OF_SHARD: &str = boxes_of_shard!("eventbox_event", "");
    const FAILING_OF_SHARD: &str = boxes_of_shard!("eventbox_failure", " AND e.attempts > 0");
    const PAUSED_OF_SHARD: &str = boxes_of_shard!("eventbox_failure", " AND e.paused");
    const QUARANTINED_OF_SHARD: &str = boxes_of_shard!("eventbox_dead_letter", "");

    const EVENT_KINDS_OF_SHARD: &str = kinds_of_shard!("eventbox_event");
    const TIMER_KINDS_OF_SHARD: &str = kinds_of_shard!("eventbox_timer");
    const FAILURE_KINDS_OF_SHARD: &str = kinds_of_shard!("eventbox_failure");
    const QUARANTINE_KINDS_OF_SHARD: &str = kinds_of_shard!("eventbox_dead_letter");

    type Conn = <Engine as Database>::Connection;

    async fn shards(conn: &mut Conn, sql: &'static str, from: i16) -> Result<Vec<i16>, Fault> {
        Ok(sqlx::query_scalar::<Engine, i16>(sql).bind(from).fetch_all(conn).await?)
    }

    impl OneShardTable for Engine {
        async fn list_boxes_by_shard(
            conn: &mut Conn,
            from: BoxesFrom<'_>,
        ) -> Result<Vec<BoxRow>, Fault> {
            let (filled, sql) = match from.listed {
                Listed::Known => (WITH_STATES, KNOWN_OF_SHARD),
                Listed::Waiting => (WITH_EVENTS, WAITING_OF_SHARD),
                Listed::Failing => (WITH_FAILURES, FAILING_OF_SHARD),
                Listed::Paused => (WITH_FAILURES, PAUSED_OF_SHARD),
                Listed::Quarantined => (WITH_DEAD_LETTERS, QUARANTINED_OF_SHARD),
            };
            let mut listed = Vec::new();
            for shard in shards(conn, filled, from.shard).await? {
                let left = from.limit.saturating_sub_unsigned(listed.len() as u64);
                if left <= 0 {
                    break;
                }
                let first = if shard == from.shard { from.first } else { from.low };
                let query = sqlx::query::<Engine>(sql).bind(shard).bind(first).bind(from.high).bind(NEXT);
                for row in query.bind(left).bind(from.count_limit).fetch_all(&mut *conn).await? {
                    listed.push(BoxRow {
                        recipient: row.try_get(0)?,
                        events: row.try_get(1)?,
                        oldest: row.try_get(2)?,
                        attempts: row.try_get(3)?,
                        next_attempt_at_us: row.try_get(4)?,
                        error: row.try_get(5)?,
                        paused: row.try_get(6)?,
                        quarantined: row.try_get(7)?,
                    });
                }
            }
            Ok(listed)
        }

        async fn list_kinds_by_shard(
            conn: &mut Conn,
            limit: i64,
        ) -> Result<BTreeSet<String>, Fault> {
            let mut kinds = BTreeSet::new();
            for (filled, sql) in [
                (WITH_EVENTS, EVENT_KINDS_OF_SHARD),
                (WITH_TIMERS, TIMER_KINDS_OF_SHARD),
                (WITH_FAILURES, FAILURE_KINDS_OF_SHARD),
                (WITH_DEAD_LETTERS, QUARANTINE_KINDS_OF_SHARD),
            ] {
                for shard in shards(conn, filled, 0).await? {
                    let query = sqlx::query_scalar::<Engine, String>(sql).bind(shard).bind(limit);
                    kinds.extend(query.fetch_all(&mut *conn).await?);
                }
            }
            Ok(kinds)
        }
    }
}
