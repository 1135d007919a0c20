//! The status of one event: every table that may have the event, seen in one snapshot.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;
use crate::store::operate::kind::kind_of;

/// Location of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Box,
    Timer { due_at_us: i64 },
    Quarantine { code: String, reason: String },
    Nowhere,
}

/// Location of an event, and the status of its recipient in the same snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    pub location: Location,
    pub turn: i64,
    /// Whether the recipient, or all of its kind, is paused.
    pub paused: bool,
    pub attempts: i32,
    pub error: Option<String>,
}

/// The statement that follows one event.
pub trait StatusTable: Database {
    /// Looks for the event `id`. Without an id, looks for the event of the remembered `name`.
    fn read_status(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        id: Option<Uuid>,
        name: Option<&str>,
    ) -> impl Future<Output = Result<StatusRow, Fault>> + Send;
}

on_both_engines! {
    /// One statement, so that the turn and the location of the event are of one snapshot. All look-ups are by key.
    ///
    /// A commit that no synchronous standby has yet may have removed the event: the answer waits until a standby has
    /// it.
    pub(crate) const READ_STATUS: &str = concat!(
        "WITH sought AS (
            SELECT coalesce($3,
                (SELECT t.id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = $4)) AS id
        )
        SELECT e.id IS NOT NULL, m.due_at_us, d.code, d.reason, coalesce(s.turn, 0),
               coalesce(f.paused, false) OR k.kind IS NOT NULL,
               coalesce(f.attempts, 0), f.error, CASE WHEN e.id IS NULL AND m.id IS NULL THEN ", replicated!(), " END
        FROM sought
        LEFT JOIN eventbox_event e ON e.shard = $1 AND e.recipient = $2 AND e.id = sought.id
        LEFT JOIN eventbox_timer m ON m.shard = $1 AND m.recipient = $2 AND m.id = sought.id
        LEFT JOIN eventbox_dead_letter d ON d.shard = $1 AND d.id = sought.id AND d.recipient = $2
        LEFT JOIN eventbox_state s ON s.shard = $1 AND s.recipient = $2
        LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = $2
        LEFT JOIN eventbox_paused_kind k ON k.kind = $5"
    );

    impl StatusTable for Engine {
        async fn read_status(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            id: Option<Uuid>,
            name: Option<&str>,
        ) -> Result<StatusRow, Fault> {
            let query = sqlx::query::<Engine>(READ_STATUS)
                .bind(shard)
                .bind(recipient)
                .bind(id)
                .bind(name)
                .bind(kind_of(recipient));
            let row = query.fetch_one(conn).await?;
            let (due_at_us, code): (Option<i64>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
            let location = match (row.try_get(0)?, due_at_us, code) {
                (true, _, _) => Location::Box,
                (_, Some(due_at_us), _) => Location::Timer { due_at_us },
                (_, _, Some(code)) => Location::Quarantine { code, reason: row.try_get(3)? },
                _ => Location::Nowhere,
            };
            Ok(StatusRow {
                location,
                turn: row.try_get(4)?,
                paused: row.try_get(5)?,
                attempts: row.try_get(6)?,
                error: row.try_get(7)?,
            })
        }
    }
}
