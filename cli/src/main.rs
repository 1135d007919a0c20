//! The command line of eventbox.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
#[cfg(unix)]
mod cluster;
mod demo;
mod ingress;

/// A transactional inbox for every entity, and a durable outbox beside it, in the SQL database you already have.
#[derive(Debug, Parser)]
#[command(
    name = "eventbox",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 the answer is no, 2 failed, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Demo(demo::Args),
    /// What the demo starts for its --processes
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
