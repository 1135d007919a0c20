//! Writes on a recipient that are neither emits nor turns, on `eventbox_state` and `eventbox_failure`.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::both::on_both_engines;
use super::fault::Fault;

/// Statements of writers other than turns.
pub trait ControlTable: Database {
    /// Moves the turn to the next, whatever it is, and answers it. Waits for a turn that is committing, and locks the recipient.
    fn move_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        token: Uuid,
    ) -> impl Future<Output = Result<i64, Fault>> + Send;
}

on_both_engines! {
    impl ControlTable for Engine {
        async fn move_turn(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            token: Uuid,
        ) -> Result<i64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_state AS s (shard, recipient, turn, token, updated_at_us)
                 VALUES ($1, $2, 1, $3, ", now_us!(), ")
                 ON CONFLICT (shard, recipient) DO UPDATE
                 SET turn = s.turn + 1, token = excluded.token, updated_at_us = excluded.updated_at_us
                 RETURNING turn"
            ));
            let row = query.bind(shard).bind(recipient).bind(token).fetch_one(tx).await?;
            Ok(row.try_get(0)?)
        }
    }
}
