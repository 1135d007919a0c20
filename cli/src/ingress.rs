//! `eventbox ingress`: a Chip Ingress server for development, tests and rehearsals.

mod fault;
mod log;
mod serve;

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::failure::{is_broken_pipe, say_error};

/// Runs a Chip Ingress server for development, tests and rehearsals
///
/// The server implements the gRPC service (Publish, PublishBatch, Ping, StreamEvents, RegisterSchema) and validates
/// each event. It keeps accepted events in one SQLite file: the first copy of each idempotency key, and the number of
/// further copies. Other content under a known key is kept apart, as a conflict. An acknowledged event is on the
/// disk. `eventbox ingress log` shows the kept events.
///
/// It is not a production ingress: it has no Kafka, no replication and no quota, and it never removes an event. It
/// can inject faults.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  eventbox ingress --store ingress.sqlite3               serve on 127.0.0.1:50051
  eventbox ingress --store ingress.sqlite3 --fault code=UNAVAILABLE,rate=0.1
  eventbox ingress log --store ingress.sqlite3 --follow
  eventbox ingress stats --store ingress.sqlite3 --json

Exit codes: 0 success, 2 error."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Log(log::LogArgs),
    Stats(log::StatsArgs),
}

pub(crate) async fn run(args: Args) -> ExitCode {
    let done = match args.command {
        Some(Command::Log(args)) => log::log(args).await,
        Some(Command::Stats(args)) => log::stats(args).await,
        None => serve::serve(args.serve).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(error.as_ref());
            ExitCode::from(2)
        }
    }
}

type Done = Result<(), Box<dyn StdError + Send + Sync>>;
