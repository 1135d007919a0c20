//! `eventbox names`: the names that a recipient remembers.

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin::{self, InspectOptions};

use super::show;
use crate::operate::args::recipient;
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the names that a recipient remembers, so that a second emit changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox names order/7
  eventbox names order/7 --limit 500 --json | jq -r .[].name")]
pub(crate) struct NamesArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Largest number of names
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

impl Run for NamesArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let options = InspectOptions::default().limit(self.limit);
        let detail = on!(&session.database, pool => admin::inspect(pool, &self.recipient, &options).await)?;
        session.output().show(&detail.names, || show::names(&detail))?;
        Ok(Answer::Yes)
    }
}
