//! Content of the tables that a turn writes to. For tests of users, which inspect a turn before it is rolled back.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::inbox::event::ListedRow;
use crate::store::inbox::timer::TimerRow;
use crate::store::macros::on_both_engines;

/// Statements that read whole tables. Only for tests: they have no shard and no limit.
pub trait InspectTable: Database {
    /// Returns the ids of all events, timers and messages.
    fn all_ids(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<Uuid>, Fault>> + Send;

    /// Returns all events with their recipients, in the order of their emit.
    fn all_events(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<(String, ListedRow)>, Fault>> + Send;

    /// Returns all timers with their recipients, in the order of their emit.
    fn all_timers(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<(String, TimerRow)>, Fault>> + Send;

    /// Returns all messages of the outbox with their ids, in the order in which they were written.
    fn all_messages(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<(Uuid, Vec<u8>)>, Fault>> + Send;
}

on_both_engines! {
    impl InspectTable for Engine {
        async fn all_ids(conn: &mut <Self as Database>::Connection) -> Result<Vec<Uuid>, Fault> {
            let query = sqlx::query_scalar::<Engine, Uuid>(
                "SELECT id FROM eventbox_event UNION ALL SELECT id FROM eventbox_timer
                 UNION ALL SELECT id FROM eventbox_outbox"
            );
            Ok(query.fetch_all(conn).await?)
        }

        async fn all_events(conn: &mut <Self as Database>::Connection) -> Result<Vec<(String, ListedRow)>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT recipient, id, name, traceparent, value, origin FROM eventbox_event ORDER BY id"
            );
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    let listed = ListedRow {
                        id: row.try_get(1)?,
                        name: row.try_get(2)?,
                        traceparent: row.try_get(3)?,
                        origin: row.try_get(5)?,
                        value: row.try_get(4)?,
                    };
                    Ok((row.try_get(0)?, listed))
                })
                .collect()
        }

        async fn all_timers(conn: &mut <Self as Database>::Connection) -> Result<Vec<(String, TimerRow)>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT recipient, due_at_us, id, name, traceparent, value, origin FROM eventbox_timer ORDER BY id"
            );
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    let event = ListedRow {
                        id: row.try_get(2)?,
                        name: row.try_get(3)?,
                        traceparent: row.try_get(4)?,
                        origin: row.try_get(6)?,
                        value: row.try_get(5)?,
                    };
                    Ok((row.try_get(0)?, TimerRow { due_at_us: row.try_get(1)?, event }))
                })
                .collect()
        }

        async fn all_messages(conn: &mut <Self as Database>::Connection) -> Result<Vec<(Uuid, Vec<u8>)>, Fault> {
            let query = sqlx::query::<Engine>("SELECT id, payload FROM eventbox_outbox ORDER BY id");
            let rows = query.fetch_all(conn).await?;
            rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }
    }
}
