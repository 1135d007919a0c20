//! The workloads of `eventbox bench` on other queue libraries, each as its documentation recommends.

mod event;
mod load;
mod ours;
mod peer;
mod peers;
mod place;
mod report;
mod run;
mod scale;
mod states;
mod workloads;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sqlx::postgres::PgConnectOptions;

use crate::ours::Ours;
use crate::peer::Order;
use crate::place::Place;
use crate::run::{Line, say};
use crate::scale::Scale;
use crate::workloads::Workload;

/// Benchmarks other queues on Postgres with the workloads of `eventbox bench`, alternately, and verifies every sum
///
/// Each peer gets its own database, which is removed at the end. README.md lists the guarantees of each peer.
#[derive(Debug, Parser)]
#[command(after_help = "Exit codes: 0 success (also with wrong sums), 2 error, 130 interrupted.")]
struct Args {
    /// Postgres server with a superuser, or a user who may create databases and the extensions hstore and uuid-ossp
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: String,
    /// Program `eventbox`, which runs each workload before the peers
    #[arg(long, value_name = "PATH", conflicts_with = "ours")]
    eventbox: Option<PathBuf>,
    /// Output of an earlier `eventbox bench --json`
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Workloads to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOADS")]
    only: Vec<Workload>,
    /// Peers to measure, by the names of their crates [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PEERS")]
    peer: Vec<String>,
    /// Orders of events to measure [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    order: Vec<Order>,
    /// Use smaller amounts and one round, two to three minutes in all
    #[arg(long)]
    quick: bool,
    /// Timed rounds of each workload [default: 3; 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: Option<u8>,
    /// Print an array of objects instead of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    fn scale(&self) -> Scale {
        match self.quick {
            true => Scale::quick(self.rounds.unwrap_or(1).into()),
            false => Scale::full(self.rounds.unwrap_or(3).into()),
        }
    }

    fn ours(&self, scale: &Scale) -> Result<Ours> {
        match (&self.eventbox, &self.ours) {
            (Some(path), _) => {
                let (path, server) = (path.clone(), self.database_url.clone());
                Ok(Ours::Program { path, server, quick: self.quick, rounds: scale.rounds })
            }
            (None, Some(file)) => Ours::read(file),
            (None, None) => Ok(Ours::Nothing),
        }
    }

    fn workloads(&self) -> impl Iterator<Item = Workload> {
        Workload::ALL.into_iter().filter(|workload| self.only.is_empty() || self.only.contains(workload))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match measure(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            say("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Runs the benchmark. Returns whether it finished.
async fn measure(args: &Args) -> Result<bool> {
    let scale = args.scale();
    let ours = args.ours(&scale)?;
    let server: PgConnectOptions = args.database_url.parse().context("--database-url is not a URL of Postgres")?;
    let mut peers = peers::all();
    let known: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
    for name in &args.peer {
        ensure!(known.contains(&name.as_str()), "{name} is not a peer: choose from {}", known.join(", "));
    }
    peers.retain(|peer| args.peer.is_empty() || args.peer.iter().any(|name| name == peer.name()));
    let mut places = Vec::new();
    // An interrupt waits for databases that are being created, so that they can be removed.
    let created = create(&server, peers, &mut places).await;
    let measured = match created {
        Ok(()) => tokio::select! {
            measured = all(args, &places, &ours, &scale) => measured.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        },
        Err(error) => Err(error),
    };
    let names: Vec<&str> = places.iter().map(|place: &Place| place.peer.name()).collect();
    let told = match measured {
        Ok(Some(lines)) => tell(args, &lines, &names).map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    let mut removed = Ok(());
    for place in places {
        removed = removed.and(place.remove().await);
    }
    removed.and(told)
}

async fn create(server: &PgConnectOptions, peers: Vec<Box<dyn peer::Peer>>, places: &mut Vec<Place>) -> Result<()> {
    for peer in peers {
        let name = peer.name();
        places.push(Place::create(server, peer).await.with_context(|| name.to_owned())?);
    }
    Ok(())
}

async fn all(args: &Args, places: &[Place], ours: &Ours, scale: &Scale) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for workload in args.workloads() {
        lines.extend(run::workload(places, ours, workload, &args.order, scale).await?);
    }
    Ok(lines)
}

fn tell(args: &Args, lines: &[Line], peers: &[&str]) -> Result<()> {
    let text = match args.json {
        true => serde_json::to_string_pretty(lines)?,
        false => report::table(lines, peers),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("print the result"),
        _ => Ok(()),
    }
}
