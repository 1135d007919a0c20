//! `eventbox peer`: connections between eventboxes and the outside.

mod list;
mod run;

use anyhow::Result;

use super::args::Common;
use super::session::Session;
use super::{Answer, Run};

/// Runs the peers of a file, or lists peers and their open streams
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox peer run --check                              check peers.toml, without a database
  eventbox peer run                                      run the peers of peers.toml
  eventbox peer list                                     which peers run, and what waits to be sent
  eventbox peer streams chat                             the open streams of peer chat

Exit codes: 0 success, 1 a peer gave up or a stop left something, 2 error, 130 interrupted.")]
pub(crate) struct PeerArgs {
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PeerCommand {
    Run(run::RunArgs),
    List(list::ListArgs),
    Streams(list::StreamsArgs),
}

impl PeerArgs {
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.command, PeerCommand::Run(_))
    }
}

pub(crate) async fn peer(common: &Common, args: PeerArgs) -> Result<Answer> {
    match args.command {
        PeerCommand::Run(args) => run::run(common, args).await,
        PeerCommand::List(args) => args.run(&Session::open(common, true).await?).await,
        PeerCommand::Streams(args) => args.run(&Session::open(common, true).await?).await,
    }
}
