//! `eventbox ingress`: a Chip Ingress server for development, tests and rehearsals.

use std::process::ExitCode;

/// Runs a Chip Ingress server for development, tests and rehearsals.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: Args) -> ExitCode {
    ExitCode::from(2)
}
