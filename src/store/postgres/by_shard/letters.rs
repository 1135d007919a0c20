//! The quarantine, the journal and the removal of events by id, below one shard.
//!
//! Events that go from one table to another are added first and removed then. The caller has moved the turn, so nobody
//! else takes them meanwhile; where that is not so, the rows are locked first.

use sqlx::PgConnection;
use uuid::Uuid;

use super::of_shards;
use crate::store::fault::Fault;
use crate::store::operate::journal::{JournalOutcome, JournalWrite, PurgedFrom, last_outcome_wins};
use crate::store::operate::quarantine::Verdict;
use crate::store::outgoing::outbox::OutboxKey;
use crate::store::postgres::now_us;

const LOCK_EVENTS: &str = "SELECT id FROM eventbox_event
WHERE shard = $1 AND recipient = $2 AND id = ANY($3) ORDER BY id FOR UPDATE";

const LOCK_TIMERS: &str = "SELECT id FROM eventbox_timer
WHERE shard = $1 AND recipient = $2 AND id = ANY($3) ORDER BY id FOR UPDATE";

const LOCK_QUARANTINED: &str = "SELECT id FROM eventbox_dead_letter
WHERE shard = $1 AND recipient = $2 AND id = ANY($3) ORDER BY id FOR UPDATE";

const REMOVE_EVENTS: &str = "DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const REMOVE_TIMERS: &str = "DELETE FROM eventbox_timer WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const REMOVE_QUARANTINED: &str =
    "DELETE FROM eventbox_dead_letter WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const LIVING_OF_SHARD: &str = "SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const REMOVE_NAMED: &str = "DELETE FROM eventbox_event e USING eventbox_tombstone t
WHERE e.shard = $1 AND e.recipient = $2 AND t.shard = $1 AND t.recipient = $2 AND t.name = ANY($3) AND e.id = t.id";

const QUARANTINE: &str = concat!(
    "INSERT INTO eventbox_dead_letter
    (shard, id, recipient, name, traceparent, origin, code, reason, attempts, dead_at_us, payload)
SELECT shard, id, recipient, name, traceparent, origin, $4, $5, $6::int4, ",
    now_us!(),
    ", value FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id = ANY($3)"
);

/// For a name of several events the tombstone gets the last one.
const REMEMBER: &str = "INSERT INTO eventbox_tombstone AS t (shard, recipient, name, id)
SELECT DISTINCT ON (shard, name) shard, recipient, name, id FROM eventbox_dead_letter
WHERE shard = $1 AND recipient = $2 AND id = ANY($3) AND name IS NOT NULL ORDER BY shard, name, id DESC
ON CONFLICT (shard, recipient, name) DO UPDATE SET gone_at_us = NULL, id = excluded.id";

const PUT_BACK: &str = "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
SELECT shard, recipient, id, name, traceparent, origin, payload FROM eventbox_dead_letter
WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

const NOTE_OF_SHARD: &str = concat!(
    "INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
SELECT a.shard, u.recipient, u.id, u.name, u.origin, u.turn, u.outcome, ",
    now_us!(),
    " FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::text[]), $3::uuid[], $4::text[], $5::int8[], $6::int2[], $7::text[])
    AS u (recipient, id, name, turn, outcome, origin)
WHERE a.shard = $1",
    last_outcome_wins!()
);

/// Notes the events of a table in turn `$4` with the outcome `$5`.
macro_rules! noting {
    ($table:literal) => {
        concat!(
            "INSERT INTO eventbox_journal (shard, recipient, id, name, origin, turn, outcome, at_us)
SELECT shard, recipient, id, name, origin, $4::int8, $5::int2, ",
            now_us!(),
            " FROM ",
            $table,
            " WHERE shard = $1 AND recipient = $2 AND id = ANY($3)",
            last_outcome_wins!()
        )
    };
}

const NOTE_EVENTS: &str = noting!("eventbox_event");
const NOTE_TIMERS: &str = noting!("eventbox_timer");
const NOTE_QUARANTINED: &str = noting!("eventbox_dead_letter");

const LOCK_DEAD: &str = "SELECT id FROM eventbox_dead_letter
WHERE shard = $1 AND id = ANY($2) AND recipient IS NULL ORDER BY id FOR UPDATE";

const PUT_DEAD_BACK: &str = concat!(
    "INSERT INTO eventbox_outbox
    (shard, id, source, type, origin, attempts, created_at_us, next_attempt_at_us, last_code, last_error, payload)
SELECT shard, id, source, type, origin, 0, ",
    now_us!(),
    ", ",
    now_us!(),
    ", code, reason, payload FROM eventbox_dead_letter
WHERE shard = $1 AND id = ANY($2) AND recipient IS NULL ON CONFLICT DO NOTHING"
);

const REMOVE_DEAD: &str = "DELETE FROM eventbox_dead_letter WHERE shard = $1 AND id = ANY($2) AND recipient IS NULL";

/// A recipient with its shard.
pub(in crate::store::postgres) type Owner<'a> = (i16, &'a str);

/// Returns those of the events that the table has, and locks them.
async fn lock(tx: &mut PgConnection, sql: &'static str, of: Owner<'_>, ids: &[Uuid]) -> Result<Vec<Uuid>, Fault> {
    Ok(sqlx::query_scalar(sql).bind(of.0).bind(of.1).bind(ids).fetch_all(tx).await?)
}

/// Runs a statement on events of one recipient, and returns the number of its rows.
async fn run(tx: &mut PgConnection, sql: &'static str, of: Owner<'_>, ids: &[Uuid]) -> Result<u64, Fault> {
    Ok(sqlx::query(sql).bind(of.0).bind(of.1).bind(ids).execute(tx).await?.rows_affected())
}

pub(in crate::store::postgres) async fn delete_events(
    tx: &mut PgConnection,
    of: Owner<'_>,
    ids: &[Uuid],
) -> Result<u64, Fault> {
    run(tx, REMOVE_EVENTS, of, ids).await
}

pub(in crate::store::postgres) async fn delete_timers(
    tx: &mut PgConnection,
    of: Owner<'_>,
    ids: &[Uuid],
) -> Result<u64, Fault> {
    run(tx, REMOVE_TIMERS, of, ids).await
}

pub(in crate::store::postgres) async fn living_events(
    tx: &mut PgConnection,
    (shard, recipient): Owner<'_>,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, Fault> {
    Ok(sqlx::query_scalar(LIVING_OF_SHARD).bind(shard).bind(recipient).bind(ids).fetch_all(tx).await?)
}

pub(in crate::store::postgres) async fn delete_named_events(
    tx: &mut PgConnection,
    (shard, recipient): Owner<'_>,
    names: &[&str],
) -> Result<u64, Fault> {
    Ok(sqlx::query(REMOVE_NAMED).bind(shard).bind(recipient).bind(names).execute(tx).await?.rows_affected())
}

/// Moves events to the quarantine.
pub(in crate::store::postgres) async fn quarantine(
    tx: &mut PgConnection,
    of: Owner<'_>,
    ids: &[Uuid],
    verdict: Verdict<'_>,
) -> Result<u64, Fault> {
    let there = lock(tx, LOCK_EVENTS, of, ids).await?;
    let query = sqlx::query(QUARANTINE).bind(of.0).bind(of.1).bind(&there);
    query.bind(verdict.code).bind(verdict.reason).bind(verdict.attempts).execute(&mut *tx).await?;
    run(tx, REMOVE_EVENTS, of, &there).await
}

/// Does the same, and notes the events as quarantined in `turn`.
pub(in crate::store::postgres) async fn quarantine_noted(
    tx: &mut PgConnection,
    of: Owner<'_>,
    ids: &[Uuid],
    verdict: Verdict<'_>,
    turn: i64,
) -> Result<u64, Fault> {
    let there = lock(tx, LOCK_EVENTS, of, ids).await?;
    note(tx, NOTE_EVENTS, of, &there, (turn, JournalOutcome::Quarantined)).await?;
    quarantine(tx, of, &there, verdict).await
}

/// Deletes events, and notes them as purged in `turn`.
pub(in crate::store::postgres) async fn purge_noted(
    tx: &mut PgConnection,
    from: PurgedFrom,
    of: Owner<'_>,
    ids: &[Uuid],
    turn: i64,
) -> Result<u64, Fault> {
    let (locking, noting, removing) = match from {
        PurgedFrom::Box => (LOCK_EVENTS, NOTE_EVENTS, REMOVE_EVENTS),
        PurgedFrom::Timers => (LOCK_TIMERS, NOTE_TIMERS, REMOVE_TIMERS),
        PurgedFrom::Quarantine => (LOCK_QUARANTINED, NOTE_QUARANTINED, REMOVE_QUARANTINED),
    };
    let there = lock(tx, locking, of, ids).await?;
    note(tx, noting, of, &there, (turn, JournalOutcome::Purged)).await?;
    run(tx, removing, of, &there).await
}

async fn note(
    tx: &mut PgConnection,
    sql: &'static str,
    of: Owner<'_>,
    ids: &[Uuid],
    (turn, outcome): (i64, JournalOutcome),
) -> Result<(), Fault> {
    let query = sqlx::query(sql).bind(of.0).bind(of.1).bind(ids).bind(turn).bind(outcome.code());
    query.execute(tx).await?;
    Ok(())
}

/// Moves events from the quarantine back to their box.
pub(in crate::store::postgres) async fn replay_events(
    tx: &mut PgConnection,
    of: Owner<'_>,
    ids: &[Uuid],
) -> Result<u64, Fault> {
    let there = lock(tx, LOCK_QUARANTINED, of, ids).await?;
    run(tx, REMEMBER, of, &there).await?;
    run(tx, PUT_BACK, of, &there).await?;
    run(tx, REMOVE_QUARANTINED, of, &there).await
}

/// Writes rows of the journal, of distinct events.
pub(in crate::store::postgres) async fn note_journal(
    tx: &mut PgConnection,
    rows: &[JournalWrite<'_>],
) -> Result<(), Fault> {
    for (shard, part) in of_shards(rows, |row| row.shard) {
        let query = sqlx::query(NOTE_OF_SHARD)
            .bind(shard)
            .bind(part.iter().map(|(_, row)| row.recipient).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.id).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.name).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.turn).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.outcome.code()).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.origin).collect::<Vec<_>>());
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Moves dead letters back to the outbox. Returns the number of messages that are in the outbox now.
pub(in crate::store::postgres) async fn replay_dead(tx: &mut PgConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
    let mut back = 0;
    for (shard, ids) in ids_of_shards(keys) {
        let there: Vec<Uuid> = sqlx::query_scalar(LOCK_DEAD).bind(shard).bind(ids).fetch_all(&mut *tx).await?;
        back += sqlx::query(PUT_DEAD_BACK).bind(shard).bind(&there).execute(&mut *tx).await?.rows_affected();
        sqlx::query(REMOVE_DEAD).bind(shard).bind(there).execute(&mut *tx).await?;
    }
    Ok(back)
}

pub(in crate::store::postgres) async fn delete_dead(conn: &mut PgConnection, keys: &[OutboxKey]) -> Result<u64, Fault> {
    let mut gone = 0;
    for (shard, ids) in ids_of_shards(keys) {
        gone += sqlx::query(REMOVE_DEAD).bind(shard).bind(ids).execute(&mut *conn).await?.rows_affected();
    }
    Ok(gone)
}

/// Returns the ids of each shard.
pub(super) fn ids_of_shards(keys: &[OutboxKey]) -> Vec<(i16, Vec<Uuid>)> {
    let ids = |(shard, part): (i16, Vec<(usize, &OutboxKey)>)| (shard, part.iter().map(|(_, key)| key.id).collect());
    of_shards(keys, |key| key.shard).into_iter().map(ids).collect()
}
