//! The command line of eventbox.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
#[cfg(unix)]
mod cluster;
mod demo;
mod ingress;

/// A transactional inbox for every entity, and a durable outbox, in the SQL database you already have.
#[derive(Debug, Parser)]
#[command(
    name = "eventbox",
    version,
    about,
    after_help = "Examples:
  eventbox demo                                          process real flights and verify the result
  eventbox bench --quick                                 benchmark every workload with small amounts
  eventbox ingress --store ingress.sqlite3               run a Chip Ingress server for development

Exit codes: 0 success, 1 check failed, 2 error, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Demo(demo::Args),
    /// Runs as a worker process of `eventbox demo --processes`
    #[command(hide = true)]
    DemoWorker,
    Ingress(Box<ingress::Args>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Bench(args) => bench::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::DemoWorker => demo::run_worker().await,
        Command::Ingress(args) => ingress::run(*args).await,
    }
}
