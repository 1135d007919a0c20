//! Readings that sensors append to files become events, exactly once. A process stops and another one goes on.
//!
//! ```text
//! cargo run --example files_as_source
//! ```
#![allow(clippy::print_stdout, reason = "the example prints to a terminal")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use eventbox::runtime::Runtime;
use eventbox::source::{Directory, Sources};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use serde::{Deserialize, Serialize};

/// Time limit of a stop.
const STOP: Duration = Duration::from_secs(5);

/// A line of a file.
#[derive(Deserialize)]
struct Reading {
    sensor: String,
    value: f64,
}

/// The state of a sensor.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Seen {
    readings: usize,
    last: f64,
}

struct Sensor;

impl Reducer for Sensor {
    type State = Seen;

    fn reduce(&self, _sensor: &Recipient, events: &[Event], mut seen: Seen) -> Result<Outcome<Seen>, BoxError> {
        for event in events {
            seen.readings += 1;
            seen.last = event.json()?;
        }
        Ok(Outcome::to(seen).consuming(events))
    }
}

/// Makes the event of a line.
fn readings(files: &Path) -> Directory {
    Directory::new(files, |line| {
        let reading: Reading = line.json()?;
        let sensor = Recipient::new("sensor", reading.sensor)?;
        Ok(vec![(sensor, Event::new(reading.value.to_string()))])
    })
}

fn append(files: &Path, file: &str, lines: &str) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).open(files.join(file))?.write_all(lines.as_bytes())
}

/// Does what each process of the service does: reads the files, until it has read so many lines.
async fn process(name: &str, pool: &sqlx::SqlitePool, files: &Path, lines: u64) -> Result<(), BoxError> {
    let runtime = Runtime::builder(pool.clone()).reducer("sensor", Sensor).start().await?;
    let sources = Sources::builder(&runtime).source("readings", readings(files)).start()?;
    while sources.status().iter().map(|partition| partition.events).sum::<u64>() < lines {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while eventbox::backlog(pool, &["sensor"]).await?.iter().any(|sensors| sensors.events > 0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{name} process: {} lines", sources.status().iter().map(|its| its.events).sum::<u64>());
    sources.stop(STOP).await;
    runtime.stop(STOP).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("boxes.db"))).await?;
    eventbox::migrate(&pool).await?;
    let files = directory.path().join("readings");
    std::fs::create_dir(&files)?;

    append(&files, "2026-01-01", "{\"sensor\":\"cellar\",\"value\":12.1}\n{\"sensor\":\"attic\",\"value\":19}\n")?;
    append(&files, "2026-01-01", "{\"sensor\":\"cellar\",\"value\":12.3}\n")?;
    process("first", &pool, &files, 3).await?;
    append(&files, "2026-01-01", "{\"sensor\":\"attic\",\"value\":18.5}\n")?;
    append(&files, "2026-01-02", "{\"sensor\":\"cellar\",\"value\":12.5}\n")?;
    process("second", &pool, &files, 2).await?;

    let cellar = Recipient::new("sensor", "cellar")?;
    let seen = eventbox::state::<Seen>(&pool, &cellar).await?.and_then(|at| at.state).ok_or("no reading")?;
    println!("{cellar}: {} readings, {} at last", seen.readings, seen.last);
    println!("done");
    Ok(())
}
