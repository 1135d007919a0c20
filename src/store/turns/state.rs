//! `eventbox_state`: the turn of each recipient, and the state when the library keeps it.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// The stored turn, and whether this attempt made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub turn: i64,
    pub ours: bool,
}

/// The stored turn and state of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRow {
    pub turn: i64,
    /// `None` for a `Processor`, and for an entity that is gone.
    pub state: Option<Vec<u8>>,
}

/// Statements on the turns of recipients.
pub trait StateTable: Database {
    /// Returns the recipient's turn; 0 when it never had one.
    fn read_turn(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Moves the turn from `turn` to the next, and stores the token of the attempt. Returns false when the stored turn
    /// is another one. Locks the recipient.
    fn advance_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        turn: i64,
        token: Uuid,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the stored turn and whether `token` made it. Waits for a writer that is about to commit.
    ///
    /// Writes a row of turn 0 where there was none, so the caller must roll back.
    fn settle_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        token: Uuid,
    ) -> impl Future<Output = Result<Settled, Fault>> + Send;

    /// Returns whether `token` made the stored turn, as this connection sees it.
    fn is_turn_of(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        token: Uuid,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the stored turn and state of a recipient; `None` when it never had a turn.
    fn read_state(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Option<KeptRow>, Fault>> + Send;

    /// Replaces the state, in the transaction that has moved the turn. Returns false when there is no turn.
    fn save_state(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        state: Option<&[u8]>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

on_both_engines! {
    impl StateTable for Engine {
        async fn read_turn(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str
        ) -> Result<i64, Fault> {
            let query = sqlx::query::<Engine>("SELECT turn FROM eventbox_state WHERE shard = $1 AND recipient = $2");
            match query.bind(shard).bind(recipient).fetch_optional(conn).await? {
                Some(row) => Ok(row.try_get(0)?),
                None => Ok(0),
            }
        }

        async fn advance_turn(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            turn: i64,
            token: Uuid,
        ) -> Result<bool, Fault> {
            // Two statements and not one upsert: a missing row must not match a turn that is not 0.
            let sql = if turn == 0 {
                concat!(
                    "INSERT INTO eventbox_state (turn, shard, recipient, token, updated_at_us)
                     VALUES ($3 + 1, $1, $2, $4, ", now_us!(), ") ON CONFLICT DO NOTHING"
                )
            } else {
                concat!(
                    "UPDATE eventbox_state SET turn = $3 + 1, token = $4, updated_at_us = ", now_us!(),
                    " WHERE shard = $1 AND recipient = $2 AND turn = $3"
                )
            };
            let done = sqlx::query::<Engine>(sql).bind(shard).bind(recipient).bind(turn).bind(token).execute(tx).await?;
            Ok(done.rows_affected() == 1)
        }

        async fn settle_turn(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            token: Uuid,
        ) -> Result<Settled, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_state AS s (shard, recipient, turn, token, updated_at_us)
                 VALUES ($1, $2, 0, $3, ", now_us!(), ")
                 ON CONFLICT (shard, recipient) DO UPDATE SET turn = s.turn
                 RETURNING turn, turn > 0 AND token = $3"
            ));
            let row = query.bind(shard).bind(recipient).bind(token).fetch_one(tx).await?;
            Ok(Settled { turn: row.try_get(0)?, ours: row.try_get(1)? })
        }

        async fn is_turn_of(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            token: Uuid,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>("SELECT token FROM eventbox_state WHERE shard = $1 AND recipient = $2");
            match query.bind(shard).bind(recipient).fetch_optional(conn).await? {
                Some(row) => Ok(row.try_get::<Option<Uuid>, _>(0)? == Some(token)),
                None => Ok(false),
            }
        }

        async fn read_state(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Option<KeptRow>, Fault> {
            let query =
                sqlx::query::<Engine>("SELECT turn, state FROM eventbox_state WHERE shard = $1 AND recipient = $2");
            match query.bind(shard).bind(recipient).fetch_optional(conn).await? {
                Some(row) => Ok(Some(KeptRow { turn: row.try_get(0)?, state: row.try_get(1)? })),
                None => Ok(None),
            }
        }

        async fn save_state(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            state: Option<&[u8]>,
        ) -> Result<bool, Fault> {
            let query =
                sqlx::query::<Engine>("UPDATE eventbox_state SET state = $3 WHERE shard = $1 AND recipient = $2");
            let done = query.bind(shard).bind(recipient).bind(state).execute(tx).await?;
            Ok(done.rows_affected() == 1)
        }
    }
}
