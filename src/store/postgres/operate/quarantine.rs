//! Events in quarantine on Postgres.

use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::operate::quarantine::{QuarantineDialect, Verdict};
use crate::store::postgres::inbox::event::among_ids;
use crate::store::postgres::{by_shard, now_us};

/// Takes the events with the ids `$3` from their box.
macro_rules! taken {
    () => {
        concat!(
            "taken AS (
    DELETE FROM eventbox_event WHERE ",
            among_ids!(),
            " RETURNING shard, recipient, id, name, traceparent, origin, value
)"
        )
    };
}
pub(in crate::store::postgres) use taken;

/// Puts the taken events into quarantine.
macro_rules! into_quarantine {
    () => {
        concat!(
            "INSERT INTO eventbox_dead_letter
    (shard, id, recipient, name, traceparent, origin, code, reason, attempts, dead_at_us, payload)
SELECT shard, id, recipient, name, traceparent, origin, $4, $5, $6::int4, ",
            now_us!(),
            ", value FROM taken"
        )
    };
}
pub(in crate::store::postgres) use into_quarantine;

/// Its plan must use the primary key.
const QUARANTINE_EVENTS: &str = concat!("WITH ", taken!(), " ", into_quarantine!());

/// One statement, which keeps the ids: in every snapshot the pruner finds the event in one table or the other.
///
/// For a name of several events the tombstone gets the last one, because a statement changes a row only once.
const REPLAY_EVENTS: &str = "WITH back AS (
    DELETE FROM eventbox_dead_letter WHERE shard = $1 AND recipient = $2 AND id = ANY($3)
    RETURNING shard, recipient, id, name, traceparent, origin, payload
), remembered AS (
    INSERT INTO eventbox_tombstone AS t (shard, recipient, name, id)
    SELECT DISTINCT ON (name) shard, recipient, name, id FROM back WHERE name IS NOT NULL ORDER BY name, id DESC
    ON CONFLICT (shard, recipient, name) DO UPDATE SET gone_at_us = NULL, id = excluded.id
)
INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
SELECT shard, recipient, id, name, traceparent, origin, payload FROM back";

const DELETE_QUARANTINED: &str =
    "DELETE FROM eventbox_dead_letter WHERE shard = $1 AND recipient = $2 AND id = ANY($3)";

impl QuarantineDialect for Postgres {
    async fn quarantine_events(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
    ) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::quarantine(tx, (shard, recipient), ids, verdict).await;
        }
        let query = sqlx::query(QUARANTINE_EVENTS).bind(shard).bind(recipient).bind(ids);
        let query = query.bind(verdict.code).bind(verdict.reason).bind(verdict.attempts);
        Ok(query.execute(tx).await?.rows_affected())
    }

    async fn replay_events(tx: &mut PgConnection, shard: i16, recipient: &str, ids: &[Uuid]) -> Result<u64, Fault> {
        if by_shard::is_on() {
            return by_shard::letters::replay_events(tx, (shard, recipient), ids).await;
        }
        let query = sqlx::query(REPLAY_EVENTS).bind(shard).bind(recipient).bind(ids);
        Ok(query.execute(tx).await?.rows_affected())
    }

    async fn delete_quarantined(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<u64, Fault> {
        let query = sqlx::query(DELETE_QUARANTINED).bind(shard).bind(recipient).bind(ids);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
