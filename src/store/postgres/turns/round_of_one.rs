//! The commit of a round of one recipient on Postgres.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use super::round::is_shortfall;
use super::turn::removing;
use crate::store::fault::Fault;
use crate::store::inbox::event::EventRow;
use crate::store::postgres::{by_shard, now_us};
use crate::store::turns::round::RoundWrite;
use crate::store::turns::round_of_one::RoundOfOneDialect;

/// No wait for a lock is longer than the round allows, and a wrong number of removals divides by zero, which rolls
/// everything back. Its plan must use the primary keys.
pub(crate) const WRITE_FIRST_ONE: &str = concat!(
    "WITH bound AS MATERIALIZED (
    SELECT set_config('lock_timeout', $8, true) AS lock_timeout
), moved AS (
    INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
    SELECT $1::int2, $2::text, $3::int8 + 1, $4::uuid, ",
    now_us!(),
    ", $9::bytea FROM bound WHERE bound.lock_timeout IS NOT NULL ON CONFLICT DO NOTHING",
    removing!(),
    "SELECT moved, 1 / (moved * $10::int8 = gone)::int FROM counted"
);

/// The same after another turn.
pub(crate) const WRITE_NEXT_ONE: &str = concat!(
    "WITH bound AS MATERIALIZED (
    SELECT set_config('lock_timeout', $8, true) AS lock_timeout
), moved AS (
    UPDATE eventbox_state s SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN $11 THEN s.state ELSE $9 END
    FROM bound WHERE bound.lock_timeout IS NOT NULL AND s.shard = $1 AND s.recipient = $2 AND s.turn = $3
      AND ($12::uuid IS NULL OR s.token = $12)",
    removing!(),
    "SELECT moved, 1 / (moved * $10::int8 = gone)::int FROM counted"
);

/// Does what [`WRITE_FIRST_ONE`] does, and inserts what the turn emits, if it is made.
pub(crate) const WRITE_AND_EMIT_FIRST_ONE: &str = concat!(
    "WITH bound AS MATERIALIZED (
    SELECT set_config('lock_timeout', $8, true) AS lock_timeout
), moved AS (
    INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
    SELECT $1::int2, $2::text, $3::int8 + 1, $4::uuid, ",
    now_us!(),
    ", $9::bytea FROM bound WHERE bound.lock_timeout IS NOT NULL ON CONFLICT DO NOTHING",
    removing!(),
    ", emitted AS (
    INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
    SELECT u.* FROM counted, unnest((SELECT $11::int2[]), $12::text[], $13::uuid[], $14::text[], $15::text[],
        $16::bytea[]) AS u WHERE counted.moved = 1
) SELECT moved, 1 / (moved * $10::int8 = gone)::int FROM counted"
);

/// Does what [`WRITE_NEXT_ONE`] does, and inserts what the turn emits, if it is made.
pub(crate) const WRITE_AND_EMIT_NEXT_ONE: &str = concat!(
    "WITH bound AS MATERIALIZED (
    SELECT set_config('lock_timeout', $8, true) AS lock_timeout
), moved AS (
    UPDATE eventbox_state s SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN $11 THEN s.state ELSE $9 END
    FROM bound WHERE bound.lock_timeout IS NOT NULL AND s.shard = $1 AND s.recipient = $2 AND s.turn = $3
      AND ($12::uuid IS NULL OR s.token = $12)",
    removing!(),
    ", emitted AS (
    INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
    SELECT u.* FROM counted, unnest((SELECT $13::int2[]), $14::text[], $15::uuid[], $16::text[], $17::text[],
        $18::bytea[]) AS u WHERE counted.moved = 1
) SELECT moved, 1 / (moved * $10::int8 = gone)::int FROM counted"
);

impl RoundOfOneDialect for Postgres {
    async fn write_one(
        tx: &mut PgConnection,
        write: &RoundWrite<'_>,
        token: Uuid,
        lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let sql = if write.turn == 0 { WRITE_FIRST_ONE } else { WRITE_NEXT_ONE };
        outcome_of(bound_to(sql, write, token, lock_wait_ms).fetch_one(tx).await)
    }

    fn emits_with_the_turn() -> bool {
        // A cluster that cuts the tables would insert from such a statement through every node.
        !by_shard::is_on()
    }

    async fn write_one_and_emit(
        tx: &mut PgConnection,
        write: &RoundWrite<'_>,
        emitted: &[EventRow<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let sql = if write.turn == 0 { WRITE_AND_EMIT_FIRST_ONE } else { WRITE_AND_EMIT_NEXT_ONE };
        let query = bound_to(sql, write, token, lock_wait_ms)
            .bind(emitted.iter().map(|row| row.shard).collect::<Vec<_>>())
            .bind(emitted.iter().map(|row| row.recipient).collect::<Vec<_>>())
            .bind(emitted.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(emitted.iter().map(|row| row.traceparent).collect::<Vec<_>>())
            .bind(emitted.iter().map(|row| row.origin).collect::<Vec<_>>())
            .bind(emitted.iter().map(|row| row.value).collect::<Vec<_>>());
        outcome_of(query.fetch_one(tx).await)
    }
}

/// Binds what all statements of this module have.
fn bound_to<'q>(
    sql: &'static str,
    write: &'q RoundWrite<'q>,
    token: Uuid,
    lock_wait_ms: u32,
) -> Query<'q, Postgres, PgArguments> {
    let (first, last) = write.removed.bounds().unzip();
    let query = sqlx::query(sql).bind(write.shard).bind(write.recipient).bind(write.turn).bind(token);
    let query = query.bind(write.removed.chosen()).bind(first).bind(last);
    let query = query.bind(lock_wait_ms.to_string()).bind(write.state.bytes());
    let query = query.bind(i64::try_from(write.removed.count()).unwrap_or(i64::MAX));
    match write.turn {
        0 => query,
        _ => query.bind(write.state.keeps()).bind(write.token),
    }
}

fn outcome_of(written: Result<PgRow, sqlx::Error>) -> Result<Option<bool>, Fault> {
    match written {
        Ok(row) => Ok(Some(row.try_get::<i64, _>(0)? == 1)),
        Err(error) if is_shortfall(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
