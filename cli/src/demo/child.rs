//! A worker process. The demo starts it, sends its job through standard input, and ends it by closing that input.
//!
//! The job may contain a password, so it is neither an argument nor an environment variable. The input also closes
//! when the demo is killed, so no worker process outlives it.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::bars::LOOK_EVERY;
use super::tables::DemoTables;
use super::work::{Job, Tally, Workers};
use super::{database, eprint_line};

/// The job of a worker process, one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) database: Place,
    pub(crate) job: Job,
}

/// The database of a worker process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    /// URL with the password.
    Postgres(String),
}

/// A progress report of a worker process, one line of JSON.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) shards: usize,
    pub(crate) tally: Tally,
}

/// Works until standard input ends.
pub(crate) async fn run() -> ExitCode {
    // A terminal sends its interrupt to every process. This process ignores it and ends with the demo.
    let ignoring = async {
        let _ = tokio::signal::ctrl_c().await;
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = try_run() => outcome,
        () = ignoring => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_line(&format!("error: a worker process: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn try_run() -> Result<()> {
    let (orders, ended) = listen();
    let Orders { database, job } = orders.await.context("read the job")??;
    match database {
        Place::Sqlite(file) => {
            work(database::open_sqlite(&file, database::connections(job.workers, job.processes)).await?, &job, ended)
                .await
        }
        Place::Postgres(url) => {
            let options = url.parse().context("the database URL is not valid")?;
            work(
                database::open_postgres(&options, database::connections(job.workers, job.processes)).await?,
                &job,
                ended,
            )
            .await
        }
    }
}

/// Reads standard input in a thread. Unlike a task, a blocked thread does not delay the end of the process.
fn listen() -> (oneshot::Receiver<Result<Orders>>, CancellationToken) {
    let (first_line, orders) = oneshot::channel();
    let ended = CancellationToken::new();
    let ending = ended.clone().drop_guard();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines();
        let first = match lines.next() {
            Some(Ok(line)) => serde_json::from_str(&line).context("parse the job"),
            _ => Err(anyhow::anyhow!("there is no job: eventbox demo --processes starts worker processes")),
        };
        let _ = first_line.send(first);
        while let Some(Ok(_)) = lines.next() {}
        drop(ending);
    });
    (orders, ended)
}

async fn work<B: DemoTables>(pool: Pool<B>, job: &Job, ended: CancellationToken) -> Result<()> {
    let workers = tokio::select! {
        () = ended.cancelled() => return Ok(()),
        started = Workers::start(&pool, job) => started?,
    };
    let mut reported = Ok(());
    while reported.is_ok() && !ended.is_cancelled() {
        reported = tell(&workers);
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    workers.stop().await;
    tell(&workers)
}

fn tell<B: DemoTables>(workers: &Workers<B>) -> Result<()> {
    let news = serde_json::to_string(&News { shards: workers.shards(), tally: workers.tally() })?;
    match writeln!(std::io::stdout(), "{news}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => bail!("report progress: {error}"),
        _ => Ok(()),
    }
}
