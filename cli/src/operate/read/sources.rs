//! `eventbox sources`: how far sources were read.

use anyhow::Result;
use eventbox::admin::{self, SourceCheckpoint};

use crate::operate::connect::on;
use crate::operate::print::table::{Grid, long, short, text};
use crate::operate::print::words::relative;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the checkpoints of sources: how far each partition was read
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox sources
  eventbox sources --json | jq -r '.[] | select(.source == \"flights\") | .position'")]
pub(crate) struct SourcesArgs {}

impl Run for SourcesArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let checkpoints = on!(&session.database, pool => admin::checkpoints(pool).await)?;
        session.output().show(&checkpoints, || list(&checkpoints))?;
        Ok(Answer::Yes)
    }
}

fn list(checkpoints: &[SourceCheckpoint]) -> String {
    let mut grid = Grid::new(&[short("source"), short("partition"), short("moved"), long("position")]);
    for checkpoint in checkpoints {
        grid.row([
            text(&checkpoint.source),
            text(&checkpoint.partition),
            text(relative(checkpoint.moved_at)),
            text(&checkpoint.position),
        ]);
    }
    grid.or("No source has a checkpoint.")
}
