//! `eventbox demo`: processes real data and proves the result.

mod bars;
mod child;
mod crew;
mod database;
mod expected;
mod flights;
mod processes;
mod processors;
mod publish;
mod report;
mod run;
mod send;
mod tables;
mod wait;
mod work;

use std::io::{IsTerminal, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

pub(crate) use self::child::run as run_worker;
use self::database::Target;
pub(crate) use self::processes::WORKER;

/// Processes real flights with eventbox and verifies the result
///
/// The input has the 27,004 flights that left New York in January 2013. The sender emits each flight as an event to
/// its aircraft, and emits some of them twice. Workers process the events, in one process or in several. Each
/// aircraft emits to its airports and publishes late departures to a Chip Ingress server over gRPC. At the end the
/// demo computes everything again from the file and compares.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox demo                                          use a fresh SQLite file and remove it at the end
  eventbox demo --database-url postgres://me@localhost/flights
  eventbox demo --processes 3 --rate 500                 run three processes; try kill -9 on one of them
  eventbox demo --keep                                   keep eventbox-demo.sqlite3 in this directory
  eventbox demo --keep; eventbox demo --resume           resume a killed run

Exit codes: 0 success, 1 check failed (not verified), 2 error, 130 interrupted.")]
pub(crate) struct Args {
    /// Database: sqlite://FILE or postgres://…, without eventboxes [default: a fresh SQLite file]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Flights to use instead of the built-in ones: a CSV file with the same columns, plain or gzipped
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Publish to this Chip Ingress instead of the built-in one; the demo then does not verify the messages
    #[arg(long, value_name = "HOST:PORT")]
    ingress: Option<String>,
    /// Percentage of the events that are sent twice, as after a lost answer
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
    resend: u8,
    /// Number of processes that share the work; the demo restarts a process that dies
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    processes: u32,
    /// Maximum number of emitted events a second [default: unlimited]
    #[arg(long, value_name = "EVENTS_PER_S")]
    rate: Option<NonZeroU32>,
    /// Number of workers of each process, which is its number of concurrent turns
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    json: bool,
    /// Keep the database at the end
    #[arg(long)]
    keep: bool,
    /// Resume an earlier run in the same database; start a new one if it is empty
    #[arg(long)]
    resume: bool,
}

pub(crate) async fn run(args: Args) -> ExitCode {
    // An interrupt drops the work in flight, which is safe at any moment. The demo proves that.
    let outcome = tokio::select! {
        outcome = try_run(&args) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprint_line("interrupted; resume a named or kept database with --resume");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(verified) => ExitCode::from(u8::from(!verified)),
        Err(error) => {
            eprint_line(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn try_run(args: &Args) -> Result<bool> {
    let input = flights::read(args.input.as_deref())?;
    let target = Target::choose(args.database_url.as_deref(), args.keep || args.resume)?;
    // With worker processes, this process only sends and watches.
    let workers = if args.processes > 1 { 0 } else { args.workers };
    let connections = database::connections(workers, 1);
    let outcome = match &target {
        Target::Sqlite { file, .. } => {
            run::run(args, &input, database::open_sqlite(file, connections).await?, target).await
        }
        Target::Postgres(options) => {
            run::run(args, &input, database::open_postgres(options, connections).await?, target).await
        }
    };
    let (report, around) = outcome?;
    let text = match args.json {
        true => serde_json::to_string(&report)?,
        false => report.summary(&around),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error).context("print the result"),
        _ => {}
    }
    if args.json && !report.verified {
        report::shown(&around.differences).iter().for_each(|difference| eprint_line(difference));
    }
    Ok(report.verified)
}

/// Progress bars are for a person at a terminal.
fn shows_progress(args: &Args) -> bool {
    !args.json && std::io::stderr().is_terminal()
}

/// Prints a line on standard error. A closed standard error is ignored.
fn eprint_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
