//! The journal on Postgres.

use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::quarantine::{into_quarantine, taken};
use crate::store::fault::Fault;
use crate::store::operate::journal::{JournalDialect, JournalOutcome, JournalWrite, PurgedFrom, last_outcome_wins};
use crate::store::operate::quarantine::Verdict;
use crate::store::postgres::inbox::event::among_ids;
use crate::store::postgres::inbox::timer::among_timers;
use crate::store::postgres::{by_shard, now_us};

const NOTE_JOURNAL: &str = concat!(
    "INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
SELECT shard, recipient, id, name, origin, turn, outcome, ",
    now_us!(),
    " FROM unnest((SELECT $1::int2[]), $2::text[], $3::uuid[], $4::text[], $5::int8[], $6::int2[], $7::text[])
    AS u (shard, recipient, id, name, turn, outcome, origin)",
    last_outcome_wins!()
);

/// The end of a statement that has removed the events `gone`: it notes them in turn `$4` with the outcome `$5`.
macro_rules! and_noting {
    () => {
        concat!(
            " RETURNING shard, recipient, id, name, origin
)
INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
SELECT shard, recipient, id, name, origin, $4::int8, $5::int2, ",
            now_us!(),
            " FROM gone",
            last_outcome_wins!()
        )
    };
}

/// One statement, here and below, so that exactly the removed events are noted: others may be emitted or moved
/// meanwhile.
const PURGE_EVENTS_NOTED: &str =
    concat!("WITH gone AS (DELETE FROM eventbox_event WHERE ", among_ids!(), and_noting!());

const PURGE_TIMERS_NOTED: &str =
    concat!("WITH gone AS (DELETE FROM eventbox_timer WHERE ", among_timers!(), and_noting!());

const PURGE_QUARANTINED_NOTED: &str = concat!(
    "WITH gone AS (DELETE FROM eventbox_dead_letter WHERE shard = $1 AND recipient = $2 AND id = ANY($3)",
    and_noting!()
);

const QUARANTINE_NOTED: &str = concat!(
    "WITH ",
    taken!(),
    ", noted AS (
    INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
    SELECT shard, recipient, id, name, origin, $7::int8, $8::int2, ",
    now_us!(),
    " FROM taken",
    last_outcome_wins!(),
    "
)
",
    into_quarantine!()
);

impl JournalDialect for Postgres {
    async fn note_journal(tx: &mut PgConnection, rows: &[JournalWrite<'_>]) -> Result<(), Fault> {
        if by_shard::is_on() {
            return by_shard::letters::note_journal(tx, rows).await;
        }
        let query = sqlx::query(NOTE_JOURNAL)
            .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.recipient).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.name).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.turn).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.outcome.code()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.origin).collect::<Vec<_>>());
        query.execute(tx).await?;
        Ok(())
    }

    async fn purge_noted(
        tx: &mut PgConnection,
        from: PurgedFrom,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        turn: i64,
    ) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::purge_noted(tx, from, (shard, recipient), ids, turn).await;
        }
        let sql = match from {
            PurgedFrom::Box => PURGE_EVENTS_NOTED,
            PurgedFrom::Timers => PURGE_TIMERS_NOTED,
            PurgedFrom::Quarantine => PURGE_QUARANTINED_NOTED,
        };
        let query = sqlx::query(sql).bind(shard).bind(recipient).bind(ids).bind(turn);
        Ok(query.bind(JournalOutcome::Purged.code()).execute(tx).await?.rows_affected())
    }

    async fn quarantine_noted(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
        turn: i64,
    ) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::quarantine_noted(tx, (shard, recipient), ids, verdict, turn).await;
        }
        let query = sqlx::query(QUARANTINE_NOTED).bind(shard).bind(recipient).bind(ids);
        let query = query.bind(verdict.code).bind(verdict.reason).bind(verdict.attempts);
        let query = query.bind(turn).bind(JournalOutcome::Quarantined.code());
        Ok(query.execute(tx).await?.rows_affected())
    }
}
