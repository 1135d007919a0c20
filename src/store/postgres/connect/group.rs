//! Postgres groups the commits of its connections itself.

use sqlx::{Pool, Postgres};

use crate::store::connect::connection::Held;
use crate::store::connect::group::{GroupCommit, Intact};
use crate::store::connect::transaction::{Tx, begin, begin_on};
use crate::store::fault::Fault;

/// Begins the transaction of a turn, in one message.
///
/// A commit reads the cursor, and the query of the cursor fails: only a transaction that has closed the cursor can
/// commit. The cursor ends with the transaction and with its savepoint. `random` prevents the planner from reading it
/// before the commit.
const BEGIN_TURN: &str = "START TRANSACTION; DECLARE eventbox_turn CURSOR WITH HOLD FOR
     SELECT ('the code of a turn must not end its transaction' || left(random()::text, 0))::int";

/// Permits the commit of the transaction.
const END_TURN: &str = "CLOSE eventbox_turn";

/// Fails without the cursor. It reads no row of the query, so it is the cheapest statement that asks for the cursor.
const HAS_TURN: &str = "MOVE 0 IN eventbox_turn";

impl GroupCommit for Postgres {
    type SharedTx = Tx<Postgres>;
    type SoleWriter = ();

    fn try_write_now(_pool: &Pool<Self>) -> Option<Self::SoleWriter> {
        Some(())
    }

    async fn begin_shared(pool: &Pool<Self>) -> Result<Self::SharedTx, Fault> {
        begin(pool, "BEGIN", false).await
    }

    async fn begin_exclusive(pool: &Pool<Self>, at_hand: Option<Held<Self>>) -> Result<Self::SharedTx, Fault> {
        begin_on(pool, at_hand, BEGIN_TURN, true).await
    }

    async fn session_of(part: &mut Self::SharedTx) -> Result<Option<i32>, Fault> {
        part.session_id().await
    }

    async fn check_intact(part: &mut Self::SharedTx) -> Result<Intact, Fault> {
        if !part.is_counted() {
            return Ok(Intact::Ended);
        }
        intact_of(sqlx::raw_sql(HAS_TURN).execute(&mut **part).await)
    }

    async fn check_to_commit(part: &mut Self::SharedTx) -> Result<Intact, Fault> {
        if !part.is_counted() {
            return Ok(Intact::Ended);
        }
        intact_of(sqlx::raw_sql(END_TURN).execute(&mut **part).await)
    }

    fn close_if_left_unfit(part: &mut Self::SharedTx, error: &(dyn std::error::Error + 'static)) {
        part.close_if_left_unfit(error);
    }

    async fn commit_shared(part: Self::SharedTx) -> Result<(), Fault> {
        part.commit().await
    }

    async fn roll_back_shared(part: Self::SharedTx) {
        part.rollback().await;
    }
}

fn intact_of<T>(found: Result<T, sqlx::Error>) -> Result<Intact, Fault> {
    const NO_SUCH_CURSOR: &str = "34000";
    const IN_FAILED_TRANSACTION: &str = "25P02";
    match found {
        Ok(_) => Ok(Intact::Whole),
        Err(error) => match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some(NO_SUCH_CURSOR) => Ok(Intact::Ended),
            Some(IN_FAILED_TRANSACTION) => Ok(Intact::Failed),
            _ => Err(error.into()),
        },
    }
}
