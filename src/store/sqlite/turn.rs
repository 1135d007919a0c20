//! The claim of a turn on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::event::{EventInsert, EventTable};
use crate::store::fault::Fault;
use crate::store::round::Removed;
use crate::store::state::StateTable;
use crate::store::turn::{Claimed, TurnClaim};

impl TurnClaim for Sqlite {
    // Differs: a CTE cannot write, and a statement more is no round trip.
    async fn claim_turn(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        turn: i64,
        token: Uuid,
        removed: Removed<'_>,
    ) -> Result<Claimed, Fault> {
        if !Self::advance_turn(tx, shard, recipient, turn, token).await? {
            return Ok(Claimed::Lost);
        }
        let gone = remove(tx, shard, recipient, removed).await?;
        Ok(if gone == removed.count() as u64 { Claimed::Done } else { Claimed::Shortfall })
    }
}

/// Removes events of one recipient; answers how many were there.
pub(super) async fn remove(
    tx: &mut SqliteConnection,
    shard: i16,
    recipient: &str,
    removed: Removed<'_>,
) -> Result<u64, Fault> {
    match removed {
        Removed::Ids([]) => Ok(0),
        Removed::Ids(ids) => Sqlite::delete_events(tx, shard, recipient, ids).await,
        Removed::Range { first, last, .. } => Sqlite::delete_range(tx, shard, recipient, first, last).await,
    }
}
