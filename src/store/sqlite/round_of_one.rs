//! The commit of a round of one recipient on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use super::now_us;
use super::turn::remove;
use crate::store::fault::Fault;
use crate::store::round::RoundWrite;
use crate::store::round_of_one::RoundOfOneWrite;

/// Differs, here and below: a CTE cannot write, and a statement more is no round trip.
pub(crate) const WRITE_FIRST_ONE: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state) VALUES ($1, $2, $3 + 1, $4, ",
    now_us!(),
    ", $5) ON CONFLICT DO NOTHING"
);

pub(crate) const WRITE_NEXT_ONE: &str = concat!(
    "UPDATE eventbox_state SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN $6 THEN state ELSE $5 END
     WHERE shard = $1 AND recipient = $2 AND turn = $3 AND ($7 IS NULL OR token = $7)"
);

impl RoundOfOneWrite for Sqlite {
    async fn write_one(
        tx: &mut SqliteConnection,
        write: &RoundWrite<'_>,
        token: Uuid,
        _lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let sql = if write.turn == 0 { WRITE_FIRST_ONE } else { WRITE_NEXT_ONE };
        let query = sqlx::query(sql).bind(write.shard).bind(write.recipient).bind(write.turn).bind(token);
        let mut query = query.bind(write.state.flatten());
        if write.turn > 0 {
            query = query.bind(write.state.is_none()).bind(write.token);
        }
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Some(false));
        }
        let gone = remove(tx, write.shard, write.recipient, write.removed).await?;
        Ok((gone == write.removed.count() as u64).then_some(true))
    }
}
