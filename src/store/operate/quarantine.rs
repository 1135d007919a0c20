//! Events in `eventbox_dead_letter`, and events that are purged from their box.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::bound::{Bound, Heavy, Page, fill, weigh};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Reason for which events go to the quarantine.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    pub code: &'a str,
    pub reason: &'a str,
    pub attempts: i32,
}

/// An event in quarantine.
#[derive(Debug)]
pub struct QuarantinedRow {
    pub id: Uuid,
    pub name: Option<String>,
    pub traceparent: Option<String>,
    pub origin: Option<String>,
    pub value: Vec<u8>,
    pub code: String,
    pub reason: String,
    pub attempts: i32,
    pub dead_at_us: i64,
}

impl Heavy for QuarantinedRow {
    fn id(&self) -> Uuid {
        self.id
    }

    fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.value
    }
}

/// Statements on the quarantine that differ between the engines. All run in a transaction that has moved the turn.
pub trait QuarantineDialect: Database {
    /// Moves events from their box to the quarantine. Returns the number of moved events.
    fn quarantine_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Moves events from the quarantine back to their box with their ids, and remembers their names as those of living
    /// events. Returns the number of moved events.
    fn replay_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Deletes events of the quarantine. Returns the number of deleted events.
    fn delete_quarantined(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on the quarantine that both engines accept.
pub trait QuarantineTable: QuarantineDialect {
    /// Returns the events of a recipient that are in quarantine, oldest first, behind `after`.
    fn list_quarantined(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: Uuid,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<QuarantinedRow>, Fault>> + Send;

    /// Returns the newest event of a box.
    fn newest_event(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Option<Uuid>, Fault>> + Send;

    /// Deletes the oldest events of a box, up to a given event. Returns the number of deleted events.
    fn purge_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        until: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    impl QuarantineTable for Engine {
        async fn list_quarantined(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: Uuid,
            bound: Bound,
        ) -> Result<Page<QuarantinedRow>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id, name, traceparent, code, reason, attempts, dead_at_us,
                        CASE WHEN octet_length(payload) <= $5 THEN payload END, CAST(octet_length(payload) AS bigint),
                        origin
                 FROM eventbox_dead_letter
                 WHERE shard = $1 AND id > $3 AND recipient = $2 ORDER BY id LIMIT $4 + 0",
            );
            let query = query.bind(shard).bind(recipient).bind(after).bind(bound.rows()).bind(bound.small(1));
            let listed = weigh!(query.fetch(&mut *conn), 7, |row| QuarantinedRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                traceparent: row.try_get(2)?,
                origin: row.try_get(9)?,
                value: Vec::new(),
                code: row.try_get(3)?,
                reason: row.try_get(4)?,
                attempts: row.try_get(5)?,
                dead_at_us: row.try_get(6)?,
            });
            Ok(fill!(listed, bound, conn, |missing| {
                let query = sqlx::query::<Engine>(
                    "SELECT id, payload FROM eventbox_dead_letter
                     WHERE shard = $1 AND recipient = $2 AND id >= $3 AND id <= $4 AND octet_length(payload) > $5
                     ORDER BY id LIMIT $6 + 0",
                );
                let query = query.bind(shard).bind(recipient).bind(missing.first).bind(missing.last);
                query.bind(bound.small(1)).bind(missing.rows)
            }))
        }

        async fn newest_event(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Option<Uuid>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2 ORDER BY id DESC LIMIT 1",
            );
            let row = query.bind(shard).bind(recipient).fetch_optional(conn).await?;
            row.map(|row| Ok(row.try_get(0)?)).transpose()
        }

        async fn purge_events(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            until: Uuid,
            limit: i64,
        ) -> Result<u64, Fault> {
            // Otherwise the offset below would be negative: an error on one engine, and the first row on the other.
            if limit < 1 {
                return Ok(0);
            }
            // Up to one id, and not IN (a list of ids): a planner without statistics of a box that was just filled
            // would compare each row with each id.
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id <= COALESCE(
                     (SELECT e.id FROM eventbox_event e
                      WHERE e.shard = $1 AND e.recipient = $2 AND e.id <= $3 ORDER BY e.id LIMIT 1 OFFSET $4 - 1), $3)",
            );
            Ok(query.bind(shard).bind(recipient).bind(until).bind(limit).execute(tx).await?.rows_affected())
        }
    }
}
