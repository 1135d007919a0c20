//! The commit of a round of one recipient on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use super::turn::chosen;
use crate::store::fault::Fault;
use crate::store::inbox::event::{EventDialect, EventRow};
use crate::store::turns::round::RoundWrite;
use crate::store::turns::round_of_one::RoundOfOneDialect;

/// Differs: a CTE cannot write, so the trigger of a view moves the turn and removes the events. When the turn has moved
/// already, the statement returns no row.
pub(crate) const WRITE_ONE: &str = "
INSERT INTO eventbox_round_of_one
    (shard, recipient, turn, token, state, keeps_state, token_before, first, last, ids, removed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING turn";

/// Error of the trigger when other events are there than the events to remove.
const SHORTFALL: &str = "eventbox: shortfall";

impl RoundOfOneDialect for Sqlite {
    async fn write_one(
        tx: &mut SqliteConnection,
        write: &RoundWrite<'_>,
        token: Uuid,
        _lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let (first, last) = write.removed.bounds().unzip();
        let query = sqlx::query(WRITE_ONE).bind(write.shard).bind(write.recipient).bind(write.turn).bind(token);
        let query = query.bind(write.state.bytes()).bind(write.state.keeps()).bind(write.token);
        let query = query.bind(first).bind(last).bind(chosen(write.removed)?);
        let query = query.bind(i64::try_from(write.removed.count()).unwrap_or(i64::MAX));
        // All rows, although there is at most one: the statement commits at its end, and the commit may fail.
        match query.fetch_all(tx).await {
            Ok(rows) => Ok(Some(!rows.is_empty())),
            Err(error) if is_shortfall(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    // Differs: the writer has the transaction in this process, so that a statement more costs little.
    fn emits_with_the_turn() -> bool {
        false
    }

    async fn write_one_and_emit(
        tx: &mut SqliteConnection,
        write: &RoundWrite<'_>,
        emitted: &[EventRow<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> Result<Option<bool>, Fault> {
        let won = Self::write_one(tx, write, token, lock_wait_ms).await?;
        if won == Some(true) {
            Self::insert_events(tx, emitted).await?;
        }
        Ok(won)
    }
}

fn is_shortfall(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|database| database.message() == SHORTFALL)
}

#[cfg(test)]
mod tests {
    use sqlx::Pool;

    use super::*;
    use crate::store::turns::round::{Removed, StateWrite};
    use crate::{Event, EventId, Recipient};

    /// Returns the turn and the state of a recipient, and its number of events.
    async fn stored(pool: &Pool<Sqlite>, recipient: &Recipient) -> (Option<(i64, Option<Vec<u8>>)>, i64) {
        let state =
            sqlx::query_as("SELECT turn, state FROM eventbox_state WHERE recipient = $1").bind(recipient.as_str());
        let events =
            sqlx::query_scalar("SELECT count(*) FROM eventbox_event WHERE recipient = $1").bind(recipient.as_str());
        (state.fetch_optional(pool).await.unwrap(), events.fetch_one(pool).await.unwrap())
    }

    /// Writes without a transaction around the statement, as when no other transaction writes.
    #[tokio::test]
    async fn a_round_of_one_is_all_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::connect_with(crate::sqlite_options(directory.path().join("r.sqlite3"))).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        let to = Recipient::new("cell", "1").unwrap();
        let mut ids = Vec::new();
        for value in ["a", "b", "c"] {
            ids.push(crate::emit(&pool, &to, Event::new(value)).await.unwrap().id().unwrap().0);
        }
        let attempts = [Uuid::new_v4(), Uuid::new_v4()];
        let write = async |turn: i64, behind: Option<Uuid>, attempt: Uuid, state: &str, removed: Removed<'_>| {
            let (shard, recipient, state) = (to.shard().into(), to.as_str(), StateWrite::Set(state.as_bytes()));
            let write = RoundWrite { shard, recipient, turn, token: behind, state, removed };
            Sqlite::write_one(&mut *pool.acquire().await.unwrap(), &write, attempt, 0).await.unwrap()
        };
        let state = |turn: i64, state: &str| Some((turn, Some(state.as_bytes().to_vec())));

        let gone = [ids[0], EventId::mint().0];
        for short in [Removed::Ids(&gone), Removed::Range { first: ids[0], last: ids[2], count: 2 }] {
            assert_eq!(write(0, None, attempts[0], "x", short).await, None);
            assert_eq!(stored(&pool, &to).await, (None, 3));
        }
        assert_eq!(write(1, None, attempts[0], "x", Removed::Ids(&ids[..1])).await, Some(false), "it never had a turn");
        assert_eq!(write(0, None, attempts[0], "one", Removed::Ids(&ids[..1])).await, Some(true));
        assert_eq!(stored(&pool, &to).await, (state(1, "one"), 2));
        for (turn, behind) in [(0, None), (2, None), (1, Some(attempts[1]))] {
            assert_eq!(write(turn, behind, attempts[1], "x", Removed::Ids(&ids[1..])).await, Some(false), "{turn}");
            assert_eq!(stored(&pool, &to).await, (state(1, "one"), 2));
        }
        let rest = Removed::Range { first: ids[1], last: ids[2], count: 2 };
        assert_eq!(write(1, Some(attempts[0]), attempts[1], "two", rest).await, Some(true));
        assert_eq!(stored(&pool, &to).await, (state(2, "two"), 0));
    }
}
