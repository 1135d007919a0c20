//! The workers of a run: in this process, or in other processes.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::Pool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Args;
use super::bars::{Bars, LOOK_EVERY};
use super::child::{Orders, Place};
use super::database::Target;
use super::processes::Processes;
use super::tables::DemoTables;
use super::work::{Job, Tally, Workers};

/// Time limit for the processes to share the shards fairly before the first event. The run starts after it anyway.
const SHARE_LIMIT: Duration = Duration::from_secs(10);

/// The workers of a run.
pub(crate) enum Crew<B: DemoTables> {
    /// Workers in this process. One process needs no other.
    Here(Workers<B>, CancellationToken),
    Apart(Processes),
}

impl<B: DemoTables> Crew<B> {
    pub(crate) async fn new(args: &Args, pool: &Pool<B>, target: &Target, ingress: &str, bars: &Bars) -> Result<Self> {
        let mut jobs = (1..=args.processes).map(|process| Job {
            process,
            processes: args.processes,
            workers: args.workers,
            ingress: ingress.to_owned(),
        });
        if args.processes > 1 {
            let database = match target {
                Target::Sqlite { file, .. } => Place::Sqlite(file.clone()),
                Target::Postgres(_) => Place::Postgres(args.database_url.clone().unwrap_or_default()),
            };
            let orders = jobs.map(|job| Orders { database: database.clone(), job }).collect();
            return Ok(Crew::Apart(Processes::new(orders, bars.clone())));
        }
        let job = jobs.next().context("no process has a job")?;
        Ok(Crew::Here(Workers::start(pool, &job).await?, CancellationToken::new()))
    }

    /// Works until [`end`](Self::end). Dropping the future drops the work in flight.
    pub(crate) async fn run(&self) -> Result<()> {
        match self {
            Crew::Here(workers, ending) => {
                ending.cancelled().await;
                workers.stop().await;
                Ok(())
            }
            Crew::Apart(processes) => processes.run().await,
        }
    }

    pub(crate) fn end(&self) {
        match self {
            Crew::Here(_, ending) => ending.cancel(),
            Crew::Apart(processes) => processes.end(),
        }
    }

    /// Waits until each process has its fair share of the shards. Otherwise the first process would do all the work.
    pub(crate) async fn share_fairly(&self) {
        let deadline = Instant::now() + SHARE_LIMIT;
        if let Crew::Apart(processes) = self {
            while !processes.share_fairly() && Instant::now() < deadline {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        match self {
            Crew::Here(workers, _) => workers.tally(),
            Crew::Apart(processes) => processes.tally(),
        }
    }

    /// Returns how often each process was restarted.
    pub(crate) fn restarts(&self) -> Vec<u32> {
        match self {
            Crew::Here(..) => vec![0],
            Crew::Apart(processes) => processes.restarts(),
        }
    }
}
