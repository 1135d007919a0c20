//! Writes on a recipient that are neither emits nor turns, on `eventbox_state` and `eventbox_failure`.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;
use crate::store::operate::kind::kind_of;

/// State of a recipient besides its events.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Number of turns; 0 when the recipient never had one.
    pub turn: i64,
    /// Time of the last move of the turn; `None` when the recipient never had one.
    pub updated_at_us: Option<i64>,
    pub paused: bool,
    /// Whether all recipients of its kind are paused.
    pub kind_paused: bool,
    pub attempts: i32,
    pub next_attempt_at_us: i64,
    pub error: Option<String>,
}

/// Whether a recipient was forgotten, and if not, the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgotten {
    /// The rows of the recipient are deleted.
    Done,
    /// There was no row of the recipient.
    NothingKept,
    /// The box of the recipient has events.
    HasEvents,
    /// The recipient has timers, which would come into its box.
    HasTimers,
    /// The recipient is paused: resume it first.
    Paused,
    /// The last write on the recipient is not [`FORGET_AFTER`](crate::admin::FORGET_AFTER) ago.
    TooRecent,
}

/// Statements of writers other than turns.
pub trait FailureTable: Database {
    /// Moves the turn to the next one, whatever it is, and returns the new turn. Waits for a turn that is committing,
    /// and locks the recipient.
    fn move_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        token: Uuid,
    ) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Returns the turn and the other data of a recipient.
    fn read_standing(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Standing, Fault>> + Send;

    /// Notes a failure of a recipient, which then backs off: for the first pause, doubled with every failure in a row,
    /// up to the second pause. Returns the number of failures in a row.
    fn count_failure(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        error: &str,
        pause_us: (i64, i64),
    ) -> impl Future<Output = Result<i32, Fault>> + Send;

    /// Ends the back-off of a failing recipient, and keeps the number of its failures.
    fn end_back_off(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Clears the failures of a recipient. A paused recipient stays paused.
    fn clear_failures(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Pauses a recipient. Returns false when it was paused already.
    fn pause_recipient(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Resumes a recipient and clears its failures. Returns false when it was neither paused nor failing.
    fn resume_recipient(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Deletes the rows of a recipient that has neither events nor timers, is not paused, and had no write for that
    /// time.
    fn forget_recipient(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        idle_us: i64,
    ) -> impl Future<Output = Result<Forgotten, Fault>> + Send;
}

on_both_engines! {
    impl FailureTable for Engine {
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

        async fn read_standing(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Standing, Fault> {
            // A full join of look-ups, because any row may be missing.
            let query = sqlx::query::<Engine>(
                "SELECT coalesce(s.turn, 0), s.updated_at_us, coalesce(f.paused, false), coalesce(f.attempts, 0),
                        coalesce(f.next_attempt_at_us, 0), f.error, k.kind IS NOT NULL
                 FROM (SELECT 1 AS always) one
                 LEFT JOIN eventbox_state s ON s.shard = $1 AND s.recipient = $2
                 LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = $2
                 LEFT JOIN eventbox_paused_kind k ON k.kind = $3",
            );
            let row = query.bind(shard).bind(recipient).bind(kind_of(recipient)).fetch_one(conn).await?;
            Ok(Standing {
                turn: row.try_get(0)?,
                updated_at_us: row.try_get(1)?,
                paused: row.try_get(2)?,
                attempts: row.try_get(3)?,
                next_attempt_at_us: row.try_get(4)?,
                error: row.try_get(5)?,
                kind_paused: row.try_get(6)?,
            })
        }

        async fn count_failure(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            error: &str,
            (base_us, cap_us): (i64, i64),
        ) -> Result<i32, Fault> {
            // After 30 doublings any base is over any cap. More doublings would exceed the range of the type. The row
            // that was not inserted has the current time and the base: behind DO UPDATE, Citus accepts no clock.
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_failure AS f (shard, recipient, attempts, error, next_attempt_at_us)
                 VALUES ($1, $2, 1, $3, ", now_us!(), " + $4)
                 ON CONFLICT (shard, recipient) DO UPDATE SET attempts = f.attempts + 1, error = excluded.error,
                     next_attempt_at_us = excluded.next_attempt_at_us - $4 + CASE
                         WHEN f.attempts < 30 AND $4 * (1 << f.attempts) < $5 THEN $4 * (1 << f.attempts) ELSE $5 END
                 RETURNING attempts"
            ));
            let query = query.bind(shard).bind(recipient).bind(error).bind(base_us).bind(cap_us);
            let row = query.fetch_one(conn).await?;
            Ok(row.try_get(0)?)
        }

        async fn end_back_off(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<(), Fault> {
            sqlx::query::<Engine>(
                "UPDATE eventbox_failure SET next_attempt_at_us = 0 WHERE shard = $1 AND recipient = $2",
            )
            .bind(shard)
            .bind(recipient)
            .execute(conn)
            .await?;
            Ok(())
        }

        async fn clear_failures(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<(), Fault> {
            sqlx::query::<Engine>("DELETE FROM eventbox_failure WHERE shard = $1 AND recipient = $2 AND NOT paused")
                .bind(shard)
                .bind(recipient)
                .execute(conn)
                .await?;
            Ok(())
        }

        async fn pause_recipient(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(
                "INSERT INTO eventbox_failure AS f (shard, recipient, paused) VALUES ($1, $2, true)
                 ON CONFLICT (shard, recipient) DO UPDATE SET paused = excluded.paused WHERE NOT f.paused",
            );
            Ok(query.bind(shard).bind(recipient).execute(tx).await?.rows_affected() == 1)
        }

        async fn resume_recipient(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>("DELETE FROM eventbox_failure WHERE shard = $1 AND recipient = $2");
            Ok(query.bind(shard).bind(recipient).execute(tx).await?.rows_affected() == 1)
        }

        async fn forget_recipient(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            idle_us: i64,
        ) -> Result<Forgotten, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "DELETE FROM eventbox_state
                 WHERE shard = $1 AND recipient = $2 AND updated_at_us <= ", now_us!(), " - $3
                 AND NOT EXISTS (SELECT 1 FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2)
                 AND NOT EXISTS (SELECT 1 FROM eventbox_timer m WHERE m.shard = $1 AND m.recipient = $2)
                 AND NOT EXISTS (SELECT 1 FROM eventbox_failure f WHERE f.shard = $1 AND f.recipient = $2 AND f.paused)"
            ));
            if query.bind(shard).bind(recipient).bind(idle_us).execute(&mut *tx).await?.rows_affected() == 1 {
                sqlx::query::<Engine>("DELETE FROM eventbox_failure WHERE shard = $1 AND recipient = $2 AND NOT paused")
                    .bind(shard)
                    .bind(recipient)
                    .execute(tx)
                    .await?;
                return Ok(Forgotten::Done);
            }
            let query = sqlx::query::<Engine>(
                "SELECT EXISTS (SELECT 1 FROM eventbox_state s WHERE s.shard = $1 AND s.recipient = $2),
                        EXISTS (SELECT 1 FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2),
                        EXISTS (SELECT 1 FROM eventbox_timer m WHERE m.shard = $1 AND m.recipient = $2),
                        EXISTS (SELECT 1 FROM eventbox_failure f WHERE f.shard = $1 AND f.recipient = $2 AND f.paused)",
            );
            let row = query.bind(shard).bind(recipient).fetch_one(tx).await?;
            Ok(match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?) {
                (_, true, _, _) => Forgotten::HasEvents,
                (_, _, true, _) => Forgotten::HasTimers,
                (_, _, _, true) => Forgotten::Paused,
                (true, ..) => Forgotten::TooRecent,
                (false, ..) => Forgotten::NothingKept,
            })
        }
    }
}
