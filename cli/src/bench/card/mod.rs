//! The cost card: what 1,000 events cost on each hot path, counted on small and fixed work.
//!
//! One task and one thread work, so the same source gives the same figures. Each path runs with two amounts, and the
//! card has their difference. So the statements of a start are not in it.

mod paths;
mod work;

use anyhow::{Context, Result, anyhow};
use futures_util::future::try_join_all;
use serde::Serialize;
use sqlx::{Connection, Pool};

use self::paths::{PATHS, Path};
use super::cost::{Cost, count_statements};
use super::engine::{Counted, Engine};
use super::place::Place;
use super::report;

/// Number of runs with each amount. A disturbance only adds, so the least counts.
const RUNS: usize = 2;

/// Seed of the random numbers of this thread.
const SEED: u64 = 7;

/// The cost of 1,000 events on one path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Entry {
    engine: &'static str,
    /// Major version of the server, which decides the format of its log.
    server: String,
    path: &'static str,
    /// Number of statements that this process sent, without BEGIN.
    statements: f64,
    /// Number of transactions that wrote.
    commits: f64,
    /// Bytes written to the WAL, without images of whole pages on Postgres.
    log_bytes: f64,
}

/// Counts every path on one engine.
pub(crate) async fn count<B: Engine>(place: Place<B>) -> Result<Vec<Entry>> {
    // Tasks on several threads would meet in another order each time.
    let counting = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Counting { admin: place.open(1, true).await?, place }.entries().await })
    });
    counting.await?
}

/// A count on one engine.
struct Counting<B: Engine> {
    place: Place<B>,
    /// One connection for unmeasured work.
    admin: Pool<B>,
}

impl<B: Engine> Counting<B> {
    async fn entries(self) -> Result<Vec<Entry>> {
        eventbox::migrate(&self.admin).await?;
        B::create(&self.admin).await.context("create the tables of the benchmark")?;
        let settings = B::settings(&self.admin).await.context("read the database's settings")?;
        let (_, version) = settings.first().context("the database reports no version")?;
        let server = version.split('.').next().unwrap_or_default().to_owned();
        let mut entries = Vec::with_capacity(PATHS.len());
        for path in &PATHS {
            let cost = self.cost(path).await.with_context(|| format!("{} on {}", path.name, B::ID))?;
            let missing = || anyhow!("a cost of {} on {} is missing", path.name, B::ID);
            entries.push(Entry {
                engine: B::ID,
                server: server.clone(),
                path: path.name,
                statements: rounded(cost.statements.ok_or_else(missing)?),
                commits: rounded(cost.counted.commits.ok_or_else(missing)?),
                log_bytes: cost.counted.wal_bytes.ok_or_else(missing)?.round(),
            });
        }
        self.admin.close().await;
        Ok(entries)
    }

    /// Returns the cost of 1,000 events more.
    async fn cost(&self, path: &Path) -> Result<Cost> {
        let [few, many] = path.events;
        let (mut of_few, mut of_many) = (self.run(path, few).await?, self.run(path, many).await?);
        for _ in 1..RUNS {
            of_few = of_few.least(self.run(path, few).await?);
            of_many = of_many.least(self.run(path, many).await?);
        }
        Ok(of_many.since(of_few, many - few))
    }

    /// Runs a path once. Returns the cost of all its events together.
    async fn run(&self, path: &Path, events: usize) -> Result<Cost> {
        // The library puts the messages of a round into a random shard.
        fastrand::seed(SEED);
        B::clear(&self.admin).await.context("empty the tables")?;
        let work = path.work;
        work.prepare(&self.admin, events).await?;
        let pool = self.place.open(work.connections(), true).await?;
        B::settle(&self.admin, true).await.context("settle the tables")?;
        let counted = self.written().await?;
        until_logged(&self.admin, 1).await?;
        let before = Cost { counted, ..Cost::so_far(None) };
        count_statements(true);
        let worked = work.run(&pool, events).await;
        let logged = until_logged(&pool, work.connections()).await;
        count_statements(false);
        worked.and(logged)?;
        let after = Cost { counted: self.written().await?, ..Cost::so_far(None) };
        pool.close().await;
        work.check(&self.admin, events).await?;
        Ok(after.since(before, 1_000))
    }

    async fn written(&self) -> Result<Counted> {
        B::written(&self.admin).await.context("read the counters of the database")
    }
}

/// Waits until the statements of all connections are logged. The thread of a connection on SQLite logs a statement
/// after its result, but before the next command.
async fn until_logged<B: Engine>(pool: &Pool<B>, connections: u32) -> Result<()> {
    let mut all = try_join_all((0..connections).map(|_| pool.acquire())).await?;
    for connection in &mut all {
        connection.ping().await?;
    }
    Ok(())
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// Formats the card for a person.
pub(crate) fn table(entries: &[Entry]) -> String {
    let header = ["engine", "path", "statements", "commits", "log kB"];
    let mut table = report::table(&header, 2);
    for entry in entries {
        table.add_row([
            format!("{} {}", entry.engine, entry.server),
            entry.path.to_owned(),
            report::number(entry.statements),
            report::number(entry.commits),
            report::number(entry.log_bytes / 1e3),
        ]);
    }
    format!("The cost of 1,000 events:\n{table}")
}
