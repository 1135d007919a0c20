//! Events in quarantine on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::operate::quarantine::{QuarantineDialect, Verdict};
use crate::store::sqlite::inbox::event::DELETE_EVENTS;
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::ids_json;

/// Differs: a CTE cannot write, so each move is several statements in the caller's transaction.
const COPY_TO_QUARANTINE: &str = concat!(
    "INSERT INTO eventbox_dead_letter
        (shard, id, recipient, name, traceparent, origin, code, reason, attempts, dead_at_us, payload)
     SELECT shard, id, recipient, name, traceparent, origin, $4, $5, $6, ",
    now_us!(),
    ", value FROM eventbox_event
     WHERE shard = $1 AND recipient = $2 AND id IN (SELECT unhex(value) FROM json_each($3))"
);

const REMEMBER_NAMES: &str = "INSERT INTO eventbox_tombstone (shard, recipient, name, id)
 SELECT shard, recipient, name, id FROM eventbox_dead_letter
 WHERE shard = $1 AND recipient = $2 AND id IN (SELECT unhex(value) FROM json_each($3)) AND name IS NOT NULL
 ON CONFLICT (shard, recipient, name) DO UPDATE SET gone_at_us = NULL, id = excluded.id";

const COPY_TO_BOX: &str = "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
 SELECT shard, recipient, id, name, traceparent, origin, payload FROM eventbox_dead_letter
 WHERE shard = $1 AND recipient = $2 AND id IN (SELECT unhex(value) FROM json_each($3))";

const DELETE_QUARANTINED: &str = "DELETE FROM eventbox_dead_letter
 WHERE shard = $1 AND recipient = $2 AND id IN (SELECT unhex(value) FROM json_each($3))";

impl QuarantineDialect for Sqlite {
    async fn quarantine_events(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
        verdict: Verdict<'_>,
    ) -> Result<u64, Fault> {
        let ids = ids_json(ids)?;
        let query = sqlx::query(COPY_TO_QUARANTINE).bind(shard).bind(recipient).bind(&ids);
        let query = query.bind(verdict.code).bind(verdict.reason).bind(verdict.attempts);
        query.execute(&mut *tx).await?;
        let query = sqlx::query(DELETE_EVENTS).bind(shard).bind(recipient).bind(&ids);
        Ok(query.execute(tx).await?.rows_affected())
    }

    async fn replay_events(tx: &mut SqliteConnection, shard: i16, recipient: &str, ids: &[Uuid]) -> Result<u64, Fault> {
        let ids = ids_json(ids)?;
        for sql in [REMEMBER_NAMES, COPY_TO_BOX] {
            sqlx::query(sql).bind(shard).bind(recipient).bind(&ids).execute(&mut *tx).await?;
        }
        let query = sqlx::query(DELETE_QUARANTINED).bind(shard).bind(recipient).bind(&ids);
        Ok(query.execute(tx).await?.rows_affected())
    }

    async fn delete_quarantined(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<u64, Fault> {
        let query = sqlx::query(DELETE_QUARANTINED).bind(shard).bind(recipient).bind(ids_json(ids)?);
        Ok(query.execute(tx).await?.rows_affected())
    }
}
