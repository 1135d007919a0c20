//! `eventbox operations`: the log of operations.

use anyhow::Result;
use eventbox::admin::{self, Operation};
use eventbox::uuid::Uuid;

use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, long, number, short, text};
use crate::operate::print::words::{NONE, relative};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists what operators changed: when, who, why and how many things
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox operations
  eventbox operations --limit 500 --json | jq '.[] | select(.action == \"purge\")'")]
pub(crate) struct OperationsArgs {
    /// Begin before this operation, the last of the page before
    #[arg(long, value_name = "ID")]
    before: Option<Uuid>,
    /// Largest number of operations
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
}

impl Run for OperationsArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let limit = self.limit;
        let operations = on!(&session.database, pool => admin::operations(pool, self.before, limit).await)?;
        session.output().show(&operations, || list(&operations))?;
        if let Some(last) = operations.last().filter(|_| operations.len() as u64 == u64::from(limit)) {
            note(&format!("There may be more: --before {}", last.id));
        }
        Ok(Answer::Yes)
    }
}

fn list(operations: &[Operation]) -> String {
    let mut grid = Grid::new(&[
        short("when"),
        short("who"),
        short("action"),
        short("target"),
        number("touched"),
        long("why").if_any(),
    ]);
    for operation in operations {
        grid.row([
            text(relative(operation.at)),
            text(&operation.who),
            text(&operation.action),
            text(&operation.target),
            text(operation.touched.to_string()),
            text(operation.why.as_deref().unwrap_or(NONE)),
        ]);
    }
    grid.or("No operator changed anything.")
}
