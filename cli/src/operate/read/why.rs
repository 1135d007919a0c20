//! `eventbox why`: why a recipient does not go on.

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin;

use crate::operate::args::recipient;
use crate::operate::connect::on;
use crate::operate::print::words::plain_lines;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Says why a recipient does not go on, and what to do
///
/// The exit code is 0 whatever the reason is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox why order/7
  eventbox why order/7 --json | jq -r .reason            the reason in one word")]
pub(crate) struct WhyArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
}

impl Run for WhyArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let why = on!(&session.database, pool => admin::why(pool, &self.recipient).await)?;
        session.output().show(&why, || plain_lines(&format!("{}\n{}", why.sentence, why.advice)))?;
        Ok(Answer::Yes)
    }
}
