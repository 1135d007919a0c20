//! A worker process: started by the demo, told by its standard input what to do, and ended by the end of that.
//!
//! What it is told holds a password at times, so it stands neither in the arguments nor in the environment. The input ends also when the
//! process that started it is killed, so no worker is ever left alone.

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

/// What a worker process is told, on one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) database: Place,
    pub(crate) job: Job,
}

/// The database of a worker process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    /// With its password.
    Postgres(String),
}

/// What a worker process tells now and then, on one line.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) shards: usize,
    pub(crate) tally: Tally,
}

/// Works until the standard input ends.
pub(crate) async fn run() -> ExitCode {
    // The interrupt of a terminal goes to every process there; this one ends when the one that started it does.
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
    let Orders { database, job } = orders.await.context("read what to do")??;
    match database {
        Place::Sqlite(file) => {
            work(database::open_sqlite(&file, database::connections(job.workers, job.processes)).await?, &job, ended)
                .await
        }
        Place::Postgres(url) => {
            let options = url.parse().context("the URL of the database is none")?;
            work(
                database::open_postgres(&options, database::connections(job.workers, job.processes)).await?,
                &job,
                ended,
            )
            .await
        }
    }
}

/// Reads the standard input in a thread of its own, which unlike a task is in nobody's way when the process ends.
fn listen() -> (oneshot::Receiver<Result<Orders>>, CancellationToken) {
    let (told, orders) = oneshot::channel();
    let ended = CancellationToken::new();
    let ending = ended.clone().drop_guard();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines();
        let first = match lines.next() {
            Some(Ok(line)) => serde_json::from_str(&line).context("understand what to do"),
            _ => Err(anyhow::anyhow!("nothing to do: worker processes are started by eventbox demo --processes")),
        };
        let _ = told.send(first);
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
    let mut told = Ok(());
    while told.is_ok() && !ended.is_cancelled() {
        told = tell(&workers);
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
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => bail!("tell what was done: {error}"),
        _ => Ok(()),
    }
}
