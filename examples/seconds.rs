//! Readings of many sensors become one write a second: rounds collect events, and the processor has methods for many
//! recipients.
//!
//! `cargo run --example seconds`

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eventbox::runtime::Runtime;
use eventbox::{BoxError, EVersion, Event, Mutation, Processor, Recipient, Transition};
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

const SENSORS: usize = 20;
const READINGS: usize = 10;

/// Counts and sums up the readings of each sensor.
struct Sensors {
    writes: Arc<AtomicU32>,
}

/// Number and sum of the readings of a sensor.
type Sum = (i64, i64);

impl Processor<Sqlite> for Sensors {
    type State = Sum;

    async fn load_state(&self, conn: &mut SqliteConnection, to: &Recipient) -> Result<(Sum, EVersion), BoxError> {
        let row = sqlx::query_as("SELECT readings, sum, version FROM sensor WHERE id = $1").bind(to.key());
        let (readings, sum, version): (i64, i64, i64) = row.fetch_optional(conn).await?.unwrap_or_default();
        Ok(((readings, sum), EVersion(version)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        (readings, sum): &Sum,
    ) -> Result<Mutation<Sqlite, Sum>, BoxError> {
        let values = events.iter().map(Event::json::<i64>).collect::<Result<Vec<_>, _>>()?;
        let next = (readings + i64::try_from(values.len())?, sum + values.iter().sum::<i64>());
        Ok(Transition::to(next).consuming(events).into())
    }

    async fn fetch_eversion(&self, tx: &mut SqliteConnection, to: &Recipient) -> Result<EVersion, BoxError> {
        let version = sqlx::query_scalar("SELECT version FROM sensor WHERE id = $1").bind(to.key());
        Ok(EVersion(version.fetch_optional(tx).await?.unwrap_or_default()))
    }

    async fn save_state(
        &self,
        tx: &mut SqliteConnection,
        to: &Recipient,
        sum: &Sum,
        version: EVersion,
    ) -> Result<(), BoxError> {
        self.save_states(tx, &[(to, sum, version)]).await.map(drop)
    }

    async fn fetch_eversions(
        &self,
        tx: &mut SqliteConnection,
        of: &[Recipient],
    ) -> Result<Option<Vec<EVersion>>, BoxError> {
        let keys = serde_json::to_string(&of.iter().map(Recipient::key).collect::<Vec<_>>())?;
        let rows = "SELECT id, version FROM sensor WHERE id IN (SELECT value FROM json_each($1))";
        let rows: Vec<(String, i64)> = sqlx::query_as(rows).bind(keys).fetch_all(tx).await?;
        let found: HashMap<String, i64> = rows.into_iter().collect();
        Ok(Some(of.iter().map(|to| EVersion(found.get(to.key()).copied().unwrap_or_default())).collect()))
    }

    async fn save_states(
        &self,
        tx: &mut SqliteConnection,
        states: &[(&Recipient, &Sum, EVersion)],
    ) -> Result<bool, BoxError> {
        let rows: Vec<_> = states.iter().map(|(to, sum, version)| (to.key(), sum.0, sum.1, version.0)).collect();
        let save = "REPLACE INTO sensor (id, readings, sum, version)
                    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1)";
        sqlx::query(save).bind(serde_json::to_string(&rows)?).execute(tx).await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("sensors.sqlite3"))).await?;
    eventbox::migrate(&pool).await?;
    sqlx::raw_sql("CREATE TABLE sensor (id TEXT PRIMARY KEY, readings INT, sum INT, version INT)")
        .execute(&pool)
        .await?;

    let writes = Arc::new(AtomicU32::new(0));
    let sensors = Sensors { writes: Arc::clone(&writes) };
    let (second, at_most) = (Duration::from_secs(1), Duration::from_secs(3));
    let runtime = Runtime::builder(pool.clone()).processor("sensor", sensors);
    let runtime = runtime.round_durations("sensor", second, at_most).start().await?;

    for reading in 0..READINGS {
        let readings = (0..SENSORS)
            .map(|sensor| Ok((Recipient::new("sensor", sensor.to_string())?, Event::from_json(&(reading * sensor))?)));
        eventbox::emit_all(&pool, &readings.collect::<Result<Vec<_>, BoxError>>()?).await?;
        tokio::time::sleep(second / 20).await;
    }
    while runtime.stats().consumed < (SENSORS * READINGS) as u64 {
        tokio::time::sleep(second / 100).await;
    }
    assert!(runtime.stop(Duration::from_secs(5)).await.complete);

    let (count, sum): Sum = sqlx::query_as("SELECT sum(readings), sum(sum) FROM sensor").fetch_one(&pool).await?;
    let writes = writes.load(Ordering::Relaxed);
    println!("{count} readings of {SENSORS} sensors, {sum} in all, became {writes} write(s)");
    assert_eq!(count, i64::try_from(SENSORS * READINGS)?);
    assert!(writes <= 5, "one write a second");
    println!("done");
    Ok(())
}
