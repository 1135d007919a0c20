//! Destinations of messages, on `eventbox_paused_destination`. An empty source or type stands for all of them.

use sqlx::{Database, Row};

use crate::store::fault::Fault;
use crate::store::macros::{is_paused, on_both_engines};

/// A destination that an operator paused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PausedDestinationRow {
    pub source: String,
    pub r#type: String,
    pub paused_at_us: i64,
    pub who: String,
    pub why: Option<String>,
}

impl PausedDestinationRow {
    /// Returns whether messages of this source and type wait for it; as `is_paused!` in a statement.
    pub fn holds(&self, source: &str, r#type: &str) -> bool {
        (self.source.is_empty() || self.source == source) && (self.r#type.is_empty() || self.r#type == r#type)
    }
}

/// Number of messages of a destination among those that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    pub found: i64,
    /// Messages that were looked at.
    pub at: i64,
}

/// Statements on destinations.
pub trait DestinationTable: Database {
    /// Pauses a destination; false when it was paused.
    fn pause_destination(
        conn: &mut Self::Connection,
        destination: (&str, &str),
        who: &str,
        why: Option<&str>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Resumes a destination; false when it was not paused.
    fn resume_destination(
        conn: &mut Self::Connection,
        destination: (&str, &str),
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the destinations that are paused, sorted.
    fn list_paused_destinations(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<PausedDestinationRow>, Fault>> + Send;

    /// Counts the messages of a destination among the first `scan` that are not delivered.
    fn count_messages_of(
        conn: &mut Self::Connection,
        destination: (&str, &str),
        scan: i64,
    ) -> impl Future<Output = Result<Looked, Fault>> + Send;

    /// Counts the messages that wait for paused destinations, among the first `scan` that are not delivered.
    fn count_paused_messages(
        conn: &mut Self::Connection,
        scan: i64,
    ) -> impl Future<Output = Result<Looked, Fault>> + Send;
}

on_both_engines! {
    const COUNT_PAUSED_MESSAGES: &str = concat!(
        "SELECT count(CASE WHEN ", is_paused!("o"), " THEN 1 END), count(*)
         FROM (SELECT source, type FROM eventbox_outbox WHERE delivered_at_us IS NULL LIMIT $1 + 0) o"
    );

    fn looked(row: &<Engine as Database>::Row) -> Result<Looked, Fault> {
        Ok(Looked { found: row.try_get(0)?, at: row.try_get(1)? })
    }

    impl DestinationTable for Engine {
        async fn pause_destination(
            conn: &mut <Self as Database>::Connection,
            (source, r#type): (&str, &str),
            who: &str,
            why: Option<&str>,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_paused_destination (source, type, paused_at_us, who, why)
                 VALUES ($1, $2, ", now_us!(), ", $3, $4) ON CONFLICT DO NOTHING"
            ));
            let query = query.bind(source).bind(r#type).bind(who).bind(why);
            Ok(query.execute(conn).await?.rows_affected() == 1)
        }

        async fn resume_destination(
            conn: &mut <Self as Database>::Connection,
            (source, r#type): (&str, &str),
        ) -> Result<bool, Fault> {
            let query =
                sqlx::query::<Engine>("DELETE FROM eventbox_paused_destination WHERE source = $1 AND type = $2");
            Ok(query.bind(source).bind(r#type).execute(conn).await?.rows_affected() == 1)
        }

        async fn list_paused_destinations(
            conn: &mut <Self as Database>::Connection,
        ) -> Result<Vec<PausedDestinationRow>, Fault> {
            let query =
                sqlx::query::<Engine>("SELECT source, type, paused_at_us, who, why FROM eventbox_paused_destination");
            let paused = |row: &<Engine as Database>::Row| {
                Ok(PausedDestinationRow {
                    source: row.try_get(0)?,
                    r#type: row.try_get(1)?,
                    paused_at_us: row.try_get(2)?,
                    who: row.try_get(3)?,
                    why: row.try_get(4)?,
                })
            };
            let rows = query.fetch_all(conn).await?;
            let mut rows = rows.iter().map(paused).collect::<Result<Vec<_>, Fault>>()?;
            // Here and not by the engines, which may sort by a language.
            rows.sort();
            Ok(rows)
        }

        async fn count_messages_of(
            conn: &mut <Self as Database>::Connection,
            (source, r#type): (&str, &str),
            scan: i64,
        ) -> Result<Looked, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT count(CASE WHEN $1 IN ('', source) AND $2 IN ('', type) THEN 1 END), count(*)
                 FROM (SELECT source, type FROM eventbox_outbox WHERE delivered_at_us IS NULL LIMIT $3 + 0) o",
            );
            looked(&query.bind(source).bind(r#type).bind(scan).fetch_one(conn).await?)
        }

        async fn count_paused_messages(
            conn: &mut <Self as Database>::Connection,
            scan: i64,
        ) -> Result<Looked, Fault> {
            looked(&sqlx::query::<Engine>(COUNT_PAUSED_MESSAGES).bind(scan).fetch_one(conn).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_text_stands_for_every_source_or_type() {
        let paused = |source: &str, r#type: &str| PausedDestinationRow {
            source: source.to_owned(),
            r#type: r#type.to_owned(),
            paused_at_us: 0,
            who: "ana".to_owned(),
            why: None,
        };
        for (source, kind, holds) in [
            ("", "", true),
            ("shop", "", true),
            ("", "paid", true),
            ("shop", "paid", true),
            ("Shop", "", false),
            ("shop", "sent", false),
        ] {
            assert_eq!(paused(source, kind).holds("shop", "paid"), holds, "{source} {kind}");
        }
    }
}
