//! `eventbox_journal`: what became of the events of kinds that keep a journal.

use serde::Serialize;
use sqlx::{Database, Row};
use uuid::Uuid;

use super::kind::kind_of;
use super::quarantine::Verdict;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// What became of an event that left its box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JournalOutcome {
    /// A turn consumed the event.
    Consumed,
    /// A turn removed the event as garbage, because another event superseded it.
    Garbage,
    /// The event went into quarantine: it made every batch fail, or an operator took it aside.
    Quarantined,
    /// An operator deleted the event.
    Purged,
}

impl JournalOutcome {
    /// Returns the number in the table.
    pub(in crate::store) fn code(self) -> i16 {
        match self {
            JournalOutcome::Consumed => 1,
            JournalOutcome::Garbage => 2,
            JournalOutcome::Quarantined => 3,
            JournalOutcome::Purged => 4,
        }
    }

    pub(in crate::store) fn from_code(code: i16) -> Self {
        match code {
            1 => JournalOutcome::Consumed,
            2 => JournalOutcome::Garbage,
            3 => JournalOutcome::Quarantined,
            _ => JournalOutcome::Purged,
        }
    }
}

/// A row of the journal to be written.
#[derive(Debug, Clone, Copy)]
pub struct JournalWrite<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    pub id: Uuid,
    pub name: Option<&'a str>,
    /// Stored form of the origin.
    pub origin: Option<&'a str>,
    /// Number of the turn that removes the event.
    pub turn: i64,
    pub outcome: JournalOutcome,
}

/// A row of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    pub id: Uuid,
    pub name: Option<String>,
    /// Stored form of the origin.
    pub origin: Option<String>,
    pub turn: i64,
    pub outcome: JournalOutcome,
    pub at_us: i64,
}

/// A table from which an operator deletes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgedFrom {
    Box,
    Timers,
    Quarantine,
}

/// Number of rows that one statement prunes.
pub(crate) const PRUNED_TOGETHER: u64 = 1_000;

/// The end of an insert: the last outcome of an event wins.
macro_rules! last_outcome_wins {
    () => {
        " ON CONFLICT (shard, recipient, id) DO UPDATE
 SET turn = excluded.turn, outcome = excluded.outcome, at_us = excluded.at_us"
    };
}
pub(in crate::store) use last_outcome_wins;

/// Statements on the journal that differ between the engines.
pub trait JournalDialect: Database {
    /// Writes rows, of distinct events. A row of an event that has one replaces it.
    fn note_journal(
        tx: &mut Self::Connection,
        rows: &[JournalWrite<'_>],
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Deletes events of one recipient, and notes them as purged in `turn`. Returns the number of deleted events. Runs
    /// in a transaction that has moved the turn.
    fn purge_noted(
        tx: &mut Self::Connection,
        from: PurgedFrom,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        turn: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Does what [`quarantine_events`](super::quarantine::QuarantineDialect::quarantine_events) does, and notes the
    /// events as quarantined in `turn`.
    fn quarantine_noted(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
        turn: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on the journal that both engines accept.
pub trait JournalTable: JournalDialect {
    /// Returns the turn of a recipient if its removed events are noted: if its kind keeps a journal, or if the
    /// recipient has rows of one. Runs in a transaction that has moved the turn.
    fn journal_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Option<i64>, Fault>> + Send;

    /// Returns rows of a recipient before an id, the newest event first.
    fn list_journal(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        before: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<JournalRow>, Fault>> + Send;

    /// Notes that a kind keeps a journal for that time; 0 ends the journal.
    fn note_journal_kind(
        conn: &mut Self::Connection,
        kind: &str,
        keep_us: i64,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Returns the kinds that keep or kept a journal, sorted, and for how long.
    fn list_journal_kinds(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, Fault>> + Send;

    /// Deletes the oldest rows of a kind that have at least this age, at most [`PRUNED_TOGETHER`]. Returns how many it
    /// deleted.
    fn prune_journal(
        conn: &mut Self::Connection,
        kind: &str,
        keep_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    /// Its plan must find the rows by the index `eventbox_journal_at`, and delete them by the primary key. The limit,
    /// which is [`PRUNED_TOGETHER`], is in the text: a planner that does not know it would read the whole table.
    pub(crate) const PRUNE_JOURNAL: &str = concat!(
        "DELETE FROM eventbox_journal WHERE (shard, recipient, id) IN (
             SELECT j.shard, j.recipient, j.id FROM eventbox_journal j
             WHERE ", kind!("j.recipient"), " = $1 AND j.at_us <= ", now_us!(), " - $2
             ORDER BY j.at_us LIMIT 1000
         )"
    );

    impl JournalTable for Engine {
        async fn journal_turn(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Option<i64>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT s.turn FROM eventbox_state s WHERE s.shard = $1 AND s.recipient = $2
                 AND (EXISTS (SELECT 1 FROM eventbox_journal_kind k WHERE k.kind = $3 AND k.keep_us > 0)
                      OR EXISTS (SELECT 1 FROM eventbox_journal j WHERE j.shard = $1 AND j.recipient = $2))",
            );
            let row = query.bind(shard).bind(recipient).bind(kind_of(recipient)).fetch_optional(tx).await?;
            row.map(|row| Ok(row.try_get(0)?)).transpose()
        }

        async fn list_journal(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            before: Uuid,
            limit: i64,
        ) -> Result<Vec<JournalRow>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id, name, turn, outcome, at_us, origin FROM eventbox_journal
                 WHERE shard = $1 AND recipient = $2 AND id < $3 ORDER BY id DESC LIMIT $4 + 0",
            );
            let rows = query.bind(shard).bind(recipient).bind(before).bind(limit).fetch_all(conn).await?;
            let noted = |row: &<Engine as Database>::Row| {
                Ok(JournalRow {
                    id: row.try_get(0)?,
                    name: row.try_get(1)?,
                    origin: row.try_get(5)?,
                    turn: row.try_get(2)?,
                    outcome: JournalOutcome::from_code(row.try_get(3)?),
                    at_us: row.try_get(4)?,
                })
            };
            rows.iter().map(noted).collect()
        }

        async fn note_journal_kind(
            conn: &mut <Self as Database>::Connection,
            kind: &str,
            keep_us: i64,
        ) -> Result<(), Fault> {
            let query = sqlx::query::<Engine>(
                "INSERT INTO eventbox_journal_kind (kind, keep_us) VALUES ($1, $2)
                 ON CONFLICT (kind) DO UPDATE SET keep_us = excluded.keep_us",
            );
            query.bind(kind).bind(keep_us).execute(conn).await?;
            Ok(())
        }

        async fn list_journal_kinds(conn: &mut <Self as Database>::Connection) -> Result<Vec<(String, i64)>, Fault> {
            let query = sqlx::query::<Engine>("SELECT kind, keep_us FROM eventbox_journal_kind ORDER BY kind");
            query.fetch_all(conn).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }

        async fn prune_journal(
            conn: &mut <Self as Database>::Connection,
            kind: &str,
            keep_us: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(PRUNE_JOURNAL).bind(kind).bind(keep_us);
            Ok(query.execute(conn).await?.rows_affected())
        }
    }
}
