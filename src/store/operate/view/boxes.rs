//! Recipients in the order of their keys, with the numbers that a list of them shows.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::one_shard::OneShardTable;
use crate::store::connect::schema::Schema;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Which recipients a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Those that ever had a turn.
    Known,
    /// Those with events in their box.
    Waiting,
    /// Those with failures.
    Failing,
    /// Those that are paused.
    Paused,
    /// Those with events in quarantine.
    Quarantined,
}

/// A part of the recipients, in the order of (shard, recipient).
#[derive(Debug, Clone, Copy)]
pub struct BoxesFrom<'a> {
    pub listed: Listed,
    /// The shard to begin in.
    pub shard: i16,
    /// The first recipient in that shard, inclusive.
    pub first: &'a str,
    /// The first recipient in every other shard, inclusive.
    pub low: &'a str,
    /// The first recipient behind the part.
    pub high: &'a str,
    pub limit: i64,
    /// Number of events of a recipient that are counted at most.
    pub count_limit: i64,
}

/// A recipient in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxRow {
    pub recipient: String,
    /// Number of events, at most the limit of the count.
    pub events: i64,
    pub oldest: Option<Uuid>,
    pub attempts: i32,
    pub next_attempt_at_us: i64,
    pub error: Option<String>,
    pub paused: bool,
    /// Number of events in quarantine, at most the limit of the count.
    pub quarantined: i64,
}

/// Statements that list recipients.
pub trait BoxesTable: Database {
    /// Lists recipients along the key of their table, from shard to shard.
    fn list_boxes(
        conn: &mut Self::Connection,
        from: BoxesFrom<'_>,
    ) -> impl Future<Output = Result<Vec<BoxRow>, Fault>> + Send;
}

/// The smallest text behind every recipient is the recipient with this added, because no recipient contains NUL.
pub(crate) const NEXT: &str = "\u{1}";

/// The statement of [`BoxesTable::list_boxes`] for one table. A step without a recipient is the end of a shard.
macro_rules! list_boxes {
    ($table:literal, $condition:literal) => {
        concat!(
            "WITH RECURSIVE step (shard, recipient, n) AS (
                 SELECT CAST($1 AS integer),
                        (SELECT e.recipient FROM ",
            $table,
            " e
                         WHERE e.shard = $1 AND e.recipient >= $2 AND e.recipient < $4",
            $condition,
            "
                         ORDER BY e.recipient LIMIT 1), 1
                 UNION ALL
                 SELECT CASE WHEN step.recipient IS NULL THEN step.shard + 1 ELSE step.shard END,
                        (SELECT e.recipient FROM ",
            $table,
            " e
                         WHERE e.shard = CASE WHEN step.recipient IS NULL THEN step.shard + 1 ELSE step.shard END
                           AND e.recipient >= coalesce(step.recipient || $5, $3) AND e.recipient < $4",
            $condition,
            "
                         ORDER BY e.recipient LIMIT 1),
                        CASE WHEN step.recipient IS NULL THEN step.n ELSE step.n + 1 END
                 FROM step
                 WHERE step.shard < 256 AND (step.recipient IS NULL OR step.n < $6)
             )
             SELECT step.recipient,
                    (SELECT count(*) FROM (SELECT 1 FROM eventbox_event e
                         WHERE e.shard = step.shard AND e.recipient = step.recipient LIMIT $7 + 0) c),
                    (SELECT e.id FROM eventbox_event e
                     WHERE e.shard = step.shard AND e.recipient = step.recipient ORDER BY e.id LIMIT 1),
                    coalesce(f.attempts, 0), coalesce(f.next_attempt_at_us, 0), f.error, coalesce(f.paused, false),
                    (SELECT count(*) FROM (SELECT 1 FROM eventbox_dead_letter d
                         WHERE d.shard = step.shard AND d.recipient = step.recipient LIMIT $7 + 0) q)
             FROM step LEFT JOIN eventbox_failure f ON f.shard = step.shard AND f.recipient = step.recipient
             WHERE step.recipient IS NOT NULL ORDER BY step.shard, step.recipient"
        )
    };
}

on_both_engines! {
    pub(crate) const KNOWN_BOXES: &str = list_boxes!("eventbox_state", "");
    pub(crate) const WAITING_BOXES: &str = list_boxes!("eventbox_event", "");
    pub(crate) const FAILING_BOXES: &str = list_boxes!("eventbox_failure", " AND e.attempts > 0");
    pub(crate) const PAUSED_BOXES: &str = list_boxes!("eventbox_failure", " AND e.paused");
    pub(crate) const QUARANTINED_BOXES: &str = list_boxes!("eventbox_dead_letter", "");

    impl BoxesTable for Engine {
        async fn list_boxes(
            conn: &mut <Self as Database>::Connection,
            from: BoxesFrom<'_>,
        ) -> Result<Vec<BoxRow>, Fault> {
            if Engine::is_by_shard() {
                return Self::list_boxes_by_shard(conn, from).await;
            }
            let sql = match from.listed {
                Listed::Known => KNOWN_BOXES,
                Listed::Waiting => WAITING_BOXES,
                Listed::Failing => FAILING_BOXES,
                Listed::Paused => PAUSED_BOXES,
                Listed::Quarantined => QUARANTINED_BOXES,
            };
            let query = sqlx::query::<Engine>(sql).bind(from.shard).bind(from.first).bind(from.low).bind(from.high);
            let query = query.bind(NEXT).bind(from.limit).bind(from.count_limit);
            let row = |row: &<Engine as Database>::Row| {
                Ok(BoxRow {
                    recipient: row.try_get(0)?,
                    events: row.try_get(1)?,
                    oldest: row.try_get(2)?,
                    attempts: row.try_get(3)?,
                    next_attempt_at_us: row.try_get(4)?,
                    error: row.try_get(5)?,
                    paused: row.try_get(6)?,
                    quarantined: row.try_get(7)?,
                })
            };
            query.fetch_all(conn).await?.iter().map(row).collect()
        }
    }
}
