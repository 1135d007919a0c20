//! The command line of eventbox.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod bench;
#[cfg(unix)]
mod cluster;
mod demo;
#[cfg(test)]
mod documents;
mod failure;
mod help;
mod ingress;
mod operate;
mod signals;

/// A transactional inbox for every entity, and a durable outbox, in the SQL database you already have.
#[derive(Debug, Parser)]
#[command(
    name = "eventbox",
    version,
    about,
    after_help = "Examples:
  eventbox status --database-url postgres://me@localhost/orders
  eventbox why order/7                                   what holds up order/7, and what to do
  eventbox dead replay --events --code POISON --dry-run  count what a replay would touch
  eventbox demo                                          process real flights and verify the result

The commands of an operator find the database in --database-url, DATABASE_URL or eventbox.toml.

Exit codes: 0 success, 1 check failed, 2 error, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Operate(Box<operate::Command>),
    Bench(bench::Args),
    Demo(demo::Args),
    Ingress(Box<ingress::Args>),
}

#[tokio::main]
async fn main() -> ExitCode {
    // The demo starts its workers with one argument. It is no subcommand, because clap suggests hidden ones for typos.
    if std::env::args_os().skip(1).eq([demo::WORKER]) {
        return demo::run_worker().await;
    }
    let mut command = help::grouped(Cli::command());
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut command).exit(),
    };
    match cli.command {
        Command::Operate(command) => operate::run(*command).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Ingress(args) => ingress::run(*args).await,
    }
}
