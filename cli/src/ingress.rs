//! `eventbox ingress`: a Chip Ingress server for development, tests and rehearsals.

mod fault;
mod log;
mod serve;

use std::error::Error as StdError;
use std::io::{self, Write};
use std::process::ExitCode;

/// Runs a Chip Ingress server for development, tests and rehearsals
///
/// It answers the real gRPC service (Publish, PublishBatch, Ping, StreamEvents, RegisterSchema), validates each event, and keeps what it
/// accepted in one SQLite file: the first copy of each idempotency key, with the number of further copies, and apart from them whatever
/// other content came under a taken key. What it acknowledged is on the disk. `eventbox ingress log` shows what it got.
///
/// It is not a production ingress: there is no Kafka behind it, no replication and no quota, nothing is ever removed from its file, and
/// it can be told to fail.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
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
            let _ = writeln!(io::stderr(), "eventbox: {}", on_one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

type Done = Result<(), Box<dyn StdError + Send + Sync>>;

/// The error and its causes, joined by colons, without a cause that repeats what was said.
fn on_one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

/// Whoever read what is written has seen enough.
fn is_broken_pipe(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
