//! `eventbox demo`: the whole job on real data, and the proof that it was done right.

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

/// Shows eventbox doing its whole job on real data, and proves it.
///
/// Takes the 27,004 flights that left New York in January 2013. Each becomes an event to its aircraft, some of them sent twice; workers
/// process them, in one process or in several; the aircraft tell their airports and publish what was late to a Chip Ingress server over gRPC. Then
/// everything is computed again from the file alone, and compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox demo                                          on a fresh SQLite file, removed afterwards
  eventbox demo --database-url postgres://me@localhost/flights
  eventbox demo --processes 3 --rate 500                 in three processes, slowly enough to kill -9 one of them
  eventbox demo --keep                                   leave eventbox-demo.sqlite3 here, to look at
  eventbox demo --keep; eventbox demo --resume           go on with a run that was killed

Exit codes: 0 verified, 1 not verified, 2 failed, 130 interrupted.")]
pub(crate) struct Args {
    /// Where to work: sqlite://FILE or postgres://…, a database without eventboxes in it [default: a fresh SQLite file]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Flights to take instead of the built-in ones: a CSV file with the same columns, plain or gzipped
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Publish to this Chip Ingress instead of a built-in one; it is then up to the receiver to check what arrived
    #[arg(long, value_name = "HOST:PORT")]
    ingress: Option<String>,
    /// Percent of the events that are sent twice, as a sender would that lost an answer
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
    resend: u8,
    /// Processes that share the work; one that dies is started again, and nothing is lost
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    processes: u32,
    /// Emit no more events a second than this, to watch [default: as fast as it goes]
    #[arg(long, value_name = "EVENTS_PER_S")]
    rate: Option<NonZeroU32>,
    /// Workers of each process: turns at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    json: bool,
    /// Leave the database there when done
    #[arg(long)]
    keep: bool,
    /// Go on with an earlier run in the same database; on an empty one, simply start
    #[arg(long)]
    resume: bool,
}

pub(crate) async fn run(args: Args) -> ExitCode {
    // Interrupting drops what is under way, which is safe at any moment: that is what the demo is about.
    let outcome = tokio::select! {
        outcome = try_run(&args) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprint_line("interrupted; a named or kept database can be gone on with: --resume");
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
    // Beside other processes, this one only sends and looks.
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

/// Progress is for a person who waits at a terminal.
fn shows_progress(args: &Args) -> bool {
    !args.json && std::io::stderr().is_terminal()
}

/// Standard error that is gone is no trouble.
fn eprint_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
