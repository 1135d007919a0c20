//! A service of two processes that share the work. A request reads its own writes, whichever process handled them.
//!
//! ```text
//! cargo run --example two_processes
//! ```
//!
//! Both processes are this program, and the database is a SQLite file. With Postgres they may run on different
//! machines.
#![allow(clippy::print_stdout, reason = "the example prints to a terminal")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, Status};

/// Time limit of a request for its event to be processed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time limit of a stop.
const STOP: Duration = Duration::from_secs(5);

/// An order: the sum of its items.
struct Order;

impl Reducer for Order {
    type State = i64;

    fn reduce(&self, _to: &Recipient, events: &[Event], mut total: i64) -> Result<Outcome<i64>, BoxError> {
        for event in events {
            total += event.json::<i64>()?;
        }
        Ok(Outcome::to(total).consuming(events))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match std::env::args_os().nth(1) {
        Some(file) => work(file.into()).await,
        None => serve().await,
    }
}

/// Starts the runtime. Every process of the service calls this first.
async fn start(file: PathBuf, address: &str) -> Result<Runtime<sqlx::Sqlite>, BoxError> {
    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(file)).await?;
    eventbox::migrate(&pool).await?;
    let mut config = RuntimeConfig::default();
    config.address = address.to_owned();
    Ok(Runtime::builder(pool).reducer("order", Order).config(config).start().await?)
}

/// Runs the second process: works until its input is closed, then hands over its shards.
async fn work(file: PathBuf) -> Result<(), BoxError> {
    let runtime = start(file, "second:8080").await?;
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    runtime.stop(STOP).await;
    Ok(())
}

/// Runs the first process: takes orders, and works too.
async fn serve() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("orders.db");
    let runtime = start(file.clone(), "first:8080").await?;
    let mut second = Command::new(std::env::current_exe()?).arg(&file).stdin(Stdio::piped()).spawn()?;
    // Wait until the second process has half of the shards.
    while runtime.shards() != 128 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
    for number in 4711..4719 {
        let order = Recipient::new("order", number.to_string())?;
        eventbox::emit(&pool, &order, Event::from_json(&40)?).await?;
        let receipt = eventbox::emit(&pool, &order, Event::from_json(&2)?).await?;
        let status = runtime.wait_processed(&receipt, PATIENCE).await?;
        let Status::Done { .. } = status else { return Err(format!("{order} was not processed: {status:?}").into()) };
        let total = eventbox::state::<i64>(&pool, &order).await?.and_then(|at| at.state);
        let by = runtime.resolve(&order).await?;
        println!("{order}: {total:?}, processed by {}", by.address.unwrap_or_default());
    }

    drop(second.stdin.take());
    second.wait()?;
    runtime.stop(STOP).await;
    Ok(())
}
