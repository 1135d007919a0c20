//! The claim of a turn on Postgres.

use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::postgres::{by_shard, now_us};
use crate::store::turns::round::Removed;
use crate::store::turns::state::StateTable;
use crate::store::turns::turn::{Claimed, TurnDialect};

/// End of a statement that moves a turn: it removes events of recipient `$2` in shard `$1` between the ids `$6` and
/// `$7`, those with the ids `$5`, or all of them.
///
/// The deletion reads the moved turn. So the turn is complete, and holds the lock of the recipient, before the first
/// event is removed. The bounds find the events: with ids alone, a planner that takes the box for short reads all of
/// it.
macro_rules! removing {
    () => {
        " RETURNING 1
), gone AS (
    DELETE FROM eventbox_event
    WHERE shard = $1 AND recipient = $2 AND id BETWEEN $6 AND $7 AND ($5::uuid[] IS NULL OR id = ANY($5))
      AND EXISTS (SELECT FROM moved) RETURNING 1
), counted AS (
    SELECT (SELECT count(*) FROM moved) AS moved, (SELECT count(*) FROM gone) AS gone
)
"
    };
}
pub(in crate::store::postgres) use removing;

/// Its plan must use the primary keys.
pub(crate) const CLAIM_FIRST_TURN: &str = concat!(
    "WITH moved AS (
    INSERT INTO eventbox_state (turn, shard, recipient, token, updated_at_us)
    VALUES ($3::int8 + 1, $1::int2, $2::text, $4::uuid, ",
    now_us!(),
    ") ON CONFLICT DO NOTHING",
    removing!(),
    "SELECT moved, gone FROM counted"
);

/// Its plan must use the primary keys.
pub(crate) const CLAIM_NEXT_TURN: &str = concat!(
    "WITH moved AS (
    UPDATE eventbox_state SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    " WHERE shard = $1 AND recipient = $2 AND turn = $3",
    removing!(),
    "SELECT moved, gone FROM counted"
);

impl TurnDialect for Postgres {
    async fn claim_turn(
        tx: &mut PgConnection,
        shard: i16,
        recipient: &str,
        turn: i64,
        token: Uuid,
        removed: Removed<'_>,
    ) -> Result<Claimed, Fault> {
        if removed.count() == 0 {
            let is_ours = Self::advance_turn(tx, shard, recipient, turn, token).await?;
            return Ok(if is_ours { Claimed::Done } else { Claimed::Lost });
        }
        if turn == 0 && by_shard::is_on() {
            return by_shard::writing::claim_first_turn(tx, (shard, recipient), token, removed).await;
        }
        let sql = if turn == 0 { CLAIM_FIRST_TURN } else { CLAIM_NEXT_TURN };
        let (first, last) = removed.bounds().unzip();
        let query = sqlx::query(sql).bind(shard).bind(recipient).bind(turn).bind(token);
        let row = query.bind(removed.chosen()).bind(first).bind(last).fetch_one(tx).await?;
        let (moved, gone): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(match (moved, usize::try_from(gone)) {
            (0, _) => Claimed::Lost,
            (_, Ok(gone)) if gone == removed.count() => Claimed::Done,
            _ => Claimed::Shortfall,
        })
    }
}
