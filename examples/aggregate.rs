//! Readings of many sensors become one row a second. Turns put their sums into a cache, and a round hook writes the
//! cache with one statement, in the transaction of the turns.
//!
//! `cargo run --example aggregate`

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventbox::runtime::{Round, RoundHooks, RoundResult, Runtime};
use eventbox::{BoxError, EVersion, Event, Mutation, Processor, Recipient, Transition};
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

const SENSORS: usize = 20;
const READINGS: usize = 10;

/// Number and sum of readings.
type Sum = (i64, i64);

/// The sums of the turns that have not committed, by sensor. A sensor is in one round at a time.
#[derive(Clone, Default)]
struct Cache(Arc<Mutex<HashMap<Recipient, Sum>>>);

impl Cache {
    fn put(&self, of: &Recipient, sum: Sum) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone(), sum);
    }

    /// Adds up the sums of these sensors. They stay, because the transaction may roll back.
    fn total(&self, of: &[Recipient]) -> Sum {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = of.iter().filter_map(|sensor| cache.get(sensor));
        sums.fold((0, 0), |total, sum| (total.0 + sum.0, total.1 + sum.1))
    }

    fn forget(&self, of: &[Recipient]) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sensor in of {
            cache.remove(sensor);
        }
    }
}

/// Sums up the readings of a sensor. A sensor has no row of its own, so that its version never moves.
struct Sensors(Cache);

impl Processor<Sqlite> for Sensors {
    type State = Sum;

    async fn load_state(&self, _conn: &mut SqliteConnection, _to: &Recipient) -> Result<(Sum, EVersion), BoxError> {
        Ok(((0, 0), EVersion(0)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        _none: &Sum,
    ) -> Result<Mutation<Sqlite, Sum>, BoxError> {
        let values = events.iter().map(Event::json::<i64>).collect::<Result<Vec<_>, _>>()?;
        Ok(Transition::to((i64::try_from(values.len())?, values.iter().sum())).consuming(events).into())
    }

    async fn fetch_eversion(&self, _tx: &mut SqliteConnection, _to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(0))
    }

    async fn save_state(
        &self,
        _tx: &mut SqliteConnection,
        to: &Recipient,
        sum: &Sum,
        _version: EVersion,
    ) -> Result<(), BoxError> {
        self.0.put(to, *sum);
        Ok(())
    }
}

/// Writes the cache.
struct Flush(Cache);

impl RoundHooks<Sqlite> for Flush {
    async fn finalize(&self, tx: &mut SqliteConnection, round: &Round) -> Result<(), BoxError> {
        let (readings, sum) = self.0.total(&round.recipients);
        let insert = sqlx::query("INSERT INTO second (sensors, readings, sum) VALUES ($1, $2, $3)");
        let sensors = i64::try_from(round.recipients.len())?;
        insert.bind(sensors).bind(readings).bind(sum).execute(tx).await?;
        Ok(())
    }

    fn finish_round(&self, round: &Round, _result: &RoundResult) {
        // After a commit the sums are in the table, and else the next round makes them anew.
        self.0.forget(&round.recipients);
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("sensors.sqlite3"))).await?;
    eventbox::migrate(&pool).await?;
    sqlx::raw_sql("CREATE TABLE second (sensors INT, readings INT, sum INT)").execute(&pool).await?;

    let cache = Cache::default();
    let (second, at_most) = (Duration::from_secs(1), Duration::from_secs(3));
    let runtime = Runtime::builder(pool.clone()).processor("sensor", Sensors(cache.clone()));
    let runtime = runtime.round_durations("sensor", second, at_most).round_hooks("sensor", Flush(cache));
    let runtime = runtime.start().await?;

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

    let (rows, count, sum): (i64, i64, i64) =
        sqlx::query_as("SELECT count(*), sum(readings), sum(sum) FROM second").fetch_one(&pool).await?;
    println!("{count} readings of {SENSORS} sensors, {sum} in all, became {rows} row(s)");
    assert_eq!(count, i64::try_from(SENSORS * READINGS)?);
    assert!(rows <= 5, "one row a second");
    println!("done");
    Ok(())
}
