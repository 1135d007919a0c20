//! The claim of a turn on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::ids_json;
use crate::store::turns::round::Removed;
use crate::store::turns::turn::{Claimed, TurnDialect};

/// End of a text that moves the turn to the attempt `$4`. If the turn has moved, it removes events of recipient `$2` in
/// shard `$1` between the ids `$6` and `$7`: those with the ids `$5`, or all of them.
///
/// Differs: a CTE cannot write, so there are two statements in one call, because every call waits for the engine's
/// thread.
macro_rules! and_removing {
    () => {
        ";
DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2 AND id BETWEEN $6 AND $7
  AND ($5 IS NULL OR id IN (SELECT unhex(value) FROM json_each($5)))
  AND EXISTS (SELECT 1 FROM eventbox_state s WHERE s.shard = $1 AND s.recipient = $2 AND s.token = $4)"
    };
}

/// Both statements must use the primary keys.
pub(crate) const CLAIM_FIRST_TURN: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us) VALUES ($1, $2, $3 + 1, $4, ",
    now_us!(),
    ") ON CONFLICT DO NOTHING",
    and_removing!()
);

pub(crate) const CLAIM_NEXT_TURN: &str = concat!(
    "UPDATE eventbox_state SET turn = $3 + 1, token = $4, updated_at_us = ",
    now_us!(),
    " WHERE shard = $1 AND recipient = $2 AND turn = $3",
    and_removing!()
);

impl TurnDialect for Sqlite {
    async fn claim_turn(
        tx: &mut SqliteConnection,
        shard: i16,
        recipient: &str,
        turn: i64,
        token: Uuid,
        removed: Removed<'_>,
    ) -> Result<Claimed, Fault> {
        let sql = if turn == 0 { CLAIM_FIRST_TURN } else { CLAIM_NEXT_TURN };
        let (first, last) = removed.bounds().unzip();
        let query = sqlx::query(sql).bind(shard).bind(recipient).bind(turn).bind(token);
        let query = query.bind(chosen(removed)?).bind(first).bind(last);
        Ok(claimed(query.execute(tx).await?.rows_affected(), removed))
    }
}

/// Returns the removed ids as `$5` of [`and_removing`], or nothing for a range.
pub(in crate::store::sqlite) fn chosen(removed: Removed<'_>) -> Result<Option<String>, Fault> {
    Ok(removed.chosen().map(ids_json).transpose()?)
}

/// Returns the result for this number of rows of both statements; the turn is one of the rows.
fn claimed(rows: u64, removed: Removed<'_>) -> Claimed {
    match rows.checked_sub(1) {
        None => Claimed::Lost,
        Some(gone) if gone == removed.count() as u64 => Claimed::Done,
        Some(_) => Claimed::Shortfall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_is_one_of_the_rows() {
        let ids = [Uuid::nil(); 2];
        for (rows, wanted) in [(0, Claimed::Lost), (1, Claimed::Shortfall), (2, Claimed::Shortfall), (3, Claimed::Done)]
        {
            assert_eq!(claimed(rows, Removed::Ids(&ids)), wanted, "{rows}");
        }
        assert_eq!(claimed(1, Removed::Ids(&[])), Claimed::Done);
    }
}
