//! `eventbox demo`: the whole job on real data.

use std::process::ExitCode;

/// Shows eventbox doing its whole job on real data.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
