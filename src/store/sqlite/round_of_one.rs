//! The commit of a round of one recipient on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use super::now_us;
use super::turn::{and_removing, chosen, claimed};
use crate::store::fault::Fault;
use crate::store::round::RoundWrite;
use crate::store::round_of_one::RoundOfOneWrite;
use crate::store::turn::Claimed;

/// Both statements must use the primary keys.
pub(crate) const WRITE_FIRST_ONE: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state) VALUES ($1, $2, $3 + 1, $4, ",
    now_us!(),
    ", $8) ON CONFLICT DO NOTHING",
    and_removing!()
);

/// The same behind another turn.
pub(crate) const WRITE_NEXT_ONE: &str = concat!(
    "UPDATE eventbox_state SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN $9 THEN state ELSE $8 END
     WHERE shard = $1 AND recipient = $2 AND turn = $3 AND ($10 IS NULL OR token = $10)",
    and_removing!()
);

impl RoundOfOneWrite for Sqlite {
    async fn write_one(
        tx: &mut SqliteConnection,
        write: &RoundWrite<'_>,
        token: Uuid,
        _lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let sql = if write.turn == 0 { WRITE_FIRST_ONE } else { WRITE_NEXT_ONE };
        let (first, last) = write.removed.bounds().unzip();
        let query = sqlx::query(sql).bind(write.shard).bind(write.recipient).bind(write.turn).bind(token);
        let query = query.bind(chosen(write.removed)?).bind(first).bind(last).bind(write.state.flatten());
        let query = query.bind(write.state.is_none()).bind(write.token);
        Ok(match claimed(query.execute(tx).await?.rows_affected(), write.removed) {
            Claimed::Done => Some(true),
            Claimed::Lost => Some(false),
            Claimed::Shortfall => None,
        })
    }
}
