//! The tables of the demo's entities and of its sender's progress. A service has such tables next to the eventboxes.

use std::collections::BTreeMap;

use eventbox::{Backend, Emitted, Event, Recipient};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, Row};

type Result<T> = std::result::Result<T, sqlx::Error>;

/// The figures of an aircraft.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AircraftState {
    pub(crate) legs: i64,
    pub(crate) cancelled: i64,
    pub(crate) delay_minutes: i64,
    pub(crate) worst_delay_minutes: Option<i32>,
    pub(crate) last_airport: Option<String>,
}

/// The figures of an airport. The library keeps them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AirportState {
    pub(crate) departed: i64,
    pub(crate) cancelled: i64,
}

impl AirportState {
    pub(crate) fn events(&self) -> i64 {
        self.departed + self.cancelled
    }
}

/// The progress of the sender, saved in the transaction of each step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    /// Digest of the input of this database.
    pub(crate) input: String,
    /// File of the built-in ingress.
    pub(crate) ingress_store: String,
    /// Percentage of the events that are sent twice.
    pub(crate) resend: i32,
    /// Number of events of a step. It gives `steps` its meaning, so a resumed run keeps it.
    pub(crate) step_events: i32,
    /// Number of finished steps.
    pub(crate) steps: i64,
    pub(crate) emitted: i64,
    pub(crate) resent: i64,
    pub(crate) duplicates: i64,
}

/// A process's share of the aircraft's work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) events: i64,
    pub(crate) turns: i64,
}

/// Numbers of remaining rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Leftovers {
    pub(crate) events: i64,
    pub(crate) outbox: i64,
    pub(crate) dead_letters: i64,
}

/// The statements of the demo, on either engine.
pub(crate) trait DemoTables: Backend {
    /// Returns whether the tables of an earlier demo, and of any eventbox, exist.
    fn existing(conn: &mut Self::Connection) -> impl Future<Output = Result<(bool, bool)>> + Send;
    fn create(conn: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;

    /// Calls [`eventbox::emit_all`] in a transaction, for code that is generic over the engine.
    fn emit_all(
        tx: &mut Self::Connection,
        events: &[(Recipient, Event)],
    ) -> impl Future<Output = eventbox::Result<Vec<Emitted>>> + Send;

    fn load_progress(conn: &mut Self::Connection) -> impl Future<Output = Result<Option<Progress>>> + Send;
    fn save_progress(tx: &mut Self::Connection, progress: &Progress) -> impl Future<Output = Result<()>> + Send;

    fn load_aircraft(
        conn: &mut Self::Connection,
        tailnum: &str,
    ) -> impl Future<Output = Result<Option<(AircraftState, i64)>>> + Send;
    fn aircraft_eversion(tx: &mut Self::Connection, tailnum: &str) -> impl Future<Output = Result<i64>> + Send;
    fn save_aircraft(
        tx: &mut Self::Connection,
        tailnum: &str,
        state: &AircraftState,
        eversion: i64,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Records a turn of an aircraft in its transaction. Each turn inserts a row, so no process waits for another.
    fn note_share(tx: &mut Self::Connection, process: i64, events: i64) -> impl Future<Output = Result<()>> + Send;
    /// Reads the share of each process with a turn.
    fn shares(conn: &mut Self::Connection) -> impl Future<Output = Result<BTreeMap<u32, Share>>> + Send;

    /// Reads all aircraft, and the sum of their turns.
    fn all_aircraft(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<(BTreeMap<String, AircraftState>, i64)>> + Send;
    /// Reads the airports with a turn, as recipients. The library reads their states.
    fn airports(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<String>>> + Send;
    fn leftovers(conn: &mut Self::Connection) -> impl Future<Output = Result<Leftovers>> + Send;
}

const CREATE: &str = "
CREATE TABLE demo_progress (
    id INTEGER PRIMARY KEY CHECK (id = 1), input TEXT NOT NULL, ingress_store TEXT NOT NULL, resend INTEGER NOT NULL,
    step_events INTEGER NOT NULL, steps BIGINT NOT NULL, emitted BIGINT NOT NULL, resent BIGINT NOT NULL,
    duplicates BIGINT NOT NULL
);
CREATE TABLE demo_aircraft (
    tailnum TEXT PRIMARY KEY, eversion BIGINT NOT NULL, legs BIGINT NOT NULL, cancelled BIGINT NOT NULL,
    delay_minutes BIGINT NOT NULL, worst_delay_minutes INTEGER, last_airport TEXT
);
CREATE TABLE demo_share (process BIGINT NOT NULL, events BIGINT NOT NULL)";

/// The catalog names the tables, so that those of later migrations go too.
const DROP: &str = "
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND c.relname ~ '^(demo|eventbox)_'
    LOOP
        EXECUTE 'DROP TABLE ' || name;
    END LOOP;
END $$";

/// Drops the demo's tables and the library's tables that the demo created.
pub(crate) async fn drop_all(conn: &mut sqlx::PgConnection) -> Result<()> {
    conn.execute(sqlx::raw_sql(DROP)).await.map(drop)
}

macro_rules! demo_tables {
    ($engine:ty, existing: $existing:literal, for_update: $for_update:literal) => {
        impl DemoTables for $engine {
            async fn existing(conn: &mut <Self as sqlx::Database>::Connection) -> Result<(bool, bool)> {
                let names = sqlx::query_scalar::<Self, String>($existing).fetch_all(conn).await?;
                let any = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
                Ok((any("demo_"), any("eventbox_")))
            }

            async fn create(conn: &mut <Self as sqlx::Database>::Connection) -> Result<()> {
                conn.execute(sqlx::raw_sql(CREATE)).await.map(drop)
            }

            async fn emit_all(
                tx: &mut <Self as sqlx::Database>::Connection,
                events: &[(Recipient, Event)],
            ) -> eventbox::Result<Vec<Emitted>> {
                eventbox::emit_all(tx, events).await
            }

            async fn load_progress(conn: &mut <Self as sqlx::Database>::Connection) -> Result<Option<Progress>> {
                let query = sqlx::query::<Self>(
                    "SELECT input, ingress_store, resend, step_events, steps, emitted, resent, duplicates
                     FROM demo_progress",
                );
                let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
                Ok(Some(Progress {
                    input: row.try_get(0)?,
                    ingress_store: row.try_get(1)?,
                    resend: row.try_get(2)?,
                    step_events: row.try_get(3)?,
                    steps: row.try_get(4)?,
                    emitted: row.try_get(5)?,
                    resent: row.try_get(6)?,
                    duplicates: row.try_get(7)?,
                }))
            }

            async fn save_progress(tx: &mut <Self as sqlx::Database>::Connection, progress: &Progress) -> Result<()> {
                let query = sqlx::query::<Self>(
                    "INSERT INTO demo_progress
                        (id, input, ingress_store, resend, step_events, steps, emitted, resent, duplicates)
                     VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO UPDATE SET
                     steps = excluded.steps, emitted = excluded.emitted, resent = excluded.resent,
                     duplicates = excluded.duplicates",
                );
                let query = query.bind(&progress.input).bind(&progress.ingress_store).bind(progress.resend);
                let query = query.bind(progress.step_events);
                let query = query.bind(progress.steps).bind(progress.emitted).bind(progress.resent);
                let query = query.bind(progress.duplicates);
                query.execute(tx).await.map(drop)
            }

            async fn load_aircraft(
                conn: &mut <Self as sqlx::Database>::Connection,
                tailnum: &str,
            ) -> Result<Option<(AircraftState, i64)>> {
                let query = sqlx::query::<Self>(
                    "SELECT tailnum, eversion, legs, cancelled, delay_minutes, worst_delay_minutes, last_airport
                     FROM demo_aircraft WHERE tailnum = $1",
                );
                let row = query.bind(tailnum).fetch_optional(conn).await?;
                row.map(|row| Ok((demo_tables!(@aircraft row), row.try_get(1)?))).transpose()
            }

            async fn aircraft_eversion(tx: &mut <Self as sqlx::Database>::Connection, tailnum: &str) -> Result<i64> {
                let query =
                    sqlx::query::<Self>(concat!("SELECT eversion FROM demo_aircraft WHERE tailnum = $1", $for_update));
                query.bind(tailnum).fetch_optional(tx).await?.map_or(Ok(0), |row| row.try_get(0))
            }

            async fn save_aircraft(
                tx: &mut <Self as sqlx::Database>::Connection,
                tailnum: &str,
                state: &AircraftState,
                eversion: i64,
            ) -> Result<()> {
                let query = sqlx::query::<Self>(
                    "INSERT INTO demo_aircraft
                        (tailnum, eversion, legs, cancelled, delay_minutes, worst_delay_minutes, last_airport)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tailnum) DO UPDATE SET
                     eversion = excluded.eversion, legs = excluded.legs, cancelled = excluded.cancelled,
                     delay_minutes = excluded.delay_minutes, worst_delay_minutes = excluded.worst_delay_minutes,
                     last_airport = excluded.last_airport",
                );
                let query = query.bind(tailnum).bind(eversion).bind(state.legs).bind(state.cancelled);
                let query = query.bind(state.delay_minutes).bind(state.worst_delay_minutes).bind(&state.last_airport);
                query.execute(tx).await.map(drop)
            }

            async fn note_share(
                tx: &mut <Self as sqlx::Database>::Connection,
                process: i64,
                events: i64,
            ) -> Result<()> {
                let query = sqlx::query::<Self>("INSERT INTO demo_share (process, events) VALUES ($1, $2)");
                query.bind(process).bind(events).execute(tx).await.map(drop)
            }

            async fn shares(conn: &mut <Self as sqlx::Database>::Connection) -> Result<BTreeMap<u32, Share>> {
                let query = sqlx::query::<Self>(
                    "SELECT process, CAST(sum(events) AS BIGINT), count(*) FROM demo_share GROUP BY process",
                );
                let mut shares = BTreeMap::new();
                for row in query.fetch_all(conn).await? {
                    let process = u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default();
                    shares.insert(process, Share { events: row.try_get(1)?, turns: row.try_get(2)? });
                }
                Ok(shares)
            }

            async fn all_aircraft(
                conn: &mut <Self as sqlx::Database>::Connection,
            ) -> Result<(BTreeMap<String, AircraftState>, i64)> {
                let query = sqlx::query::<Self>(
                    "SELECT tailnum, eversion, legs, cancelled, delay_minutes, worst_delay_minutes, last_airport
                     FROM demo_aircraft",
                );
                let mut turns = 0;
                let mut all = BTreeMap::new();
                for row in query.fetch_all(conn).await? {
                    turns += row.try_get::<i64, _>(1)?;
                    all.insert(row.try_get(0)?, demo_tables!(@aircraft row));
                }
                Ok((all, turns))
            }

            async fn airports(conn: &mut <Self as sqlx::Database>::Connection) -> Result<Vec<String>> {
                let query = sqlx::query_scalar::<Self, String>(
                    "SELECT recipient FROM eventbox_state WHERE recipient LIKE 'airport/%' ORDER BY recipient",
                );
                query.fetch_all(conn).await
            }

            async fn leftovers(conn: &mut <Self as sqlx::Database>::Connection) -> Result<Leftovers> {
                let query = sqlx::query::<Self>(
                    "SELECT (SELECT count(*) FROM eventbox_event), (SELECT count(*) FROM eventbox_outbox),
                            (SELECT count(*) FROM eventbox_dead_letter)",
                );
                let row = query.fetch_one(conn).await?;
                Ok(Leftovers { events: row.try_get(0)?, outbox: row.try_get(1)?, dead_letters: row.try_get(2)? })
            }
        }
    };
    (@aircraft $row:ident) => {
        AircraftState {
            legs: $row.try_get(2)?,
            cancelled: $row.try_get(3)?,
            delay_minutes: $row.try_get(4)?,
            worst_delay_minutes: $row.try_get(5)?,
            last_airport: $row.try_get(6)?,
        }
    };
}

demo_tables!(
    sqlx::Postgres,
    existing: "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid)
               AND c.relname ~ '^(demo|eventbox)_'",
    for_update: " FOR UPDATE"
);
// Differs: the transaction is already the only writer, so no lock is needed.
demo_tables!(
    sqlx::Sqlite,
    existing: "SELECT name FROM sqlite_schema
        WHERE type = 'table' AND (name LIKE 'demo!_%' ESCAPE '!' OR name LIKE 'eventbox!_%' ESCAPE '!')",
    for_update: ""
);
