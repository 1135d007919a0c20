//! The journal on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::inbox::event::EventDialect;
use crate::store::inbox::timer::TimerDialect;
use crate::store::operate::journal::{JournalDialect, JournalOutcome, JournalWrite, PurgedFrom, last_outcome_wins};
use crate::store::operate::quarantine::{QuarantineDialect, Verdict};
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::{hex, ids_json, rows_json};

/// Differs: no arrays. Without its WHERE the parser would take ON for a join.
const NOTE_JOURNAL: &str = concat!(
    "INSERT INTO eventbox_journal (shard, recipient, id, name, turn, outcome, origin, at_us)
SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4, value ->> 5, value ->> 6, ",
    now_us!(),
    " FROM json_each($1) WHERE true",
    last_outcome_wins!()
);

/// Differs: a CTE cannot write, so the events are noted, and then removed, in a transaction that is the only writer.
macro_rules! noting {
    ($table:literal) => {
        concat!(
            "INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
SELECT shard, recipient, id, name, origin, $4, $5, ",
            now_us!(),
            " FROM ",
            $table,
            " WHERE shard = $1 AND recipient = $2 AND id IN (SELECT unhex(value) FROM json_each($3))",
            last_outcome_wins!()
        )
    };
}

const NOTE_EVENTS: &str = noting!("eventbox_event");
const NOTE_TIMERS: &str = noting!("eventbox_timer");
const NOTE_QUARANTINED: &str = noting!("eventbox_dead_letter");

impl JournalDialect for Sqlite {
    async fn note_journal(tx: &mut SqliteConnection, rows: &[JournalWrite<'_>]) -> Result<(), Fault> {
        let columns: Vec<_> = rows
            .iter()
            .map(|row| (row.shard, row.recipient, hex(row.id), row.name, row.turn, row.outcome.code(), row.origin))
            .collect();
        sqlx::query(NOTE_JOURNAL).bind(rows_json(&columns)?).execute(tx).await?;
        Ok(())
    }

    async fn purge_noted(
        tx: &mut SqliteConnection,
        from: PurgedFrom,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        turn: i64,
    ) -> Result<u64, Fault> {
        let sql = match from {
            PurgedFrom::Box => NOTE_EVENTS,
            PurgedFrom::Timers => NOTE_TIMERS,
            PurgedFrom::Quarantine => NOTE_QUARANTINED,
        };
        let query = sqlx::query(sql).bind(shard).bind(recipient).bind(ids_json(ids)?).bind(turn);
        query.bind(JournalOutcome::Purged.code()).execute(&mut *tx).await?;
        match from {
            PurgedFrom::Box => Self::delete_events(tx, shard, recipient, ids).await,
            PurgedFrom::Timers => Self::delete_timers(tx, shard, recipient, ids).await,
            PurgedFrom::Quarantine => Self::delete_quarantined(tx, shard, recipient, ids).await,
        }
    }

    async fn quarantine_noted(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
        turn: i64,
    ) -> Result<u64, Fault> {
        let query = sqlx::query(NOTE_EVENTS).bind(shard).bind(recipient).bind(ids_json(ids)?).bind(turn);
        query.bind(JournalOutcome::Quarantined.code()).execute(&mut *tx).await?;
        Self::quarantine_events(tx, shard, recipient, ids, verdict).await
    }
}
