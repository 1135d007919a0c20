//! What the service asks of an engine, and its own table.

use eventbox::{Backend, BoxError, Emitted, Event, Receipt, Recipient};
use sqlx::{Pool, Postgres, Sqlite};

use crate::seen::Seen;

/// An engine, so that the service needs no generic executor.
pub(crate) trait Engine: Backend {
    fn put(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = eventbox::Result<Receipt>> + Send;

    fn put_all(
        pool: &Pool<Self>,
        events: &[(Recipient, Event)],
    ) -> impl Future<Output = eventbox::Result<Vec<Emitted>>> + Send;

    /// Creates the table of [`ROWS`](crate::numbers::ROWS).
    fn create_table(pool: &Pool<Self>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Returns the state and the version of a row.
    fn load(conn: &mut Self::Connection, key: &str) -> impl Future<Output = Result<(Seen, i64), BoxError>> + Send;

    /// Writes the state and the version of a row.
    fn save(
        tx: &mut Self::Connection,
        key: &str,
        seen: &Seen,
        eversion: i64,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

macro_rules! engine {
    ($engine:ty) => {
        impl Engine for $engine {
            async fn put(pool: &Pool<Self>, to: &Recipient, event: Event) -> eventbox::Result<Receipt> {
                eventbox::emit(pool, to, event).await
            }

            async fn put_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> eventbox::Result<Vec<Emitted>> {
                eventbox::emit_all(pool, events).await
            }

            async fn create_table(pool: &Pool<Self>) -> Result<(), BoxError> {
                let create =
                    "CREATE TABLE upgrade_row (id text PRIMARY KEY, eversion bigint NOT NULL, seen text NOT NULL)";
                sqlx::query::<$engine>(create).execute(pool).await?;
                Ok(())
            }

            async fn load(conn: &mut Self::Connection, key: &str) -> Result<(Seen, i64), BoxError> {
                let query = "SELECT seen, eversion FROM upgrade_row WHERE id = $1";
                let query = sqlx::query_as::<$engine, (String, i64)>(query).bind(key);
                Ok(match query.fetch_optional(conn).await? {
                    Some((seen, eversion)) => (serde_json::from_str(&seen)?, eversion),
                    None => (Seen::default(), 0),
                })
            }

            async fn save(tx: &mut Self::Connection, key: &str, seen: &Seen, eversion: i64) -> Result<(), BoxError> {
                let write = "INSERT INTO upgrade_row (id, eversion, seen) VALUES ($1, $2, $3)
                             ON CONFLICT (id) DO UPDATE SET eversion = excluded.eversion, seen = excluded.seen";
                let query = sqlx::query::<$engine>(write).bind(key).bind(eversion).bind(serde_json::to_string(seen)?);
                query.execute(tx).await?;
                Ok(())
            }
        }
    };
}

engine!(Postgres);
engine!(Sqlite);
