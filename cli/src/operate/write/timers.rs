//! `eventbox timers`: lists or cancels the timers of a recipient.

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin::{self, InspectOptions};
use indicatif::ProgressBar;

use crate::operate::args::{Writing, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::read;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the timers of a recipient, or cancels all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox timers order/7
  eventbox timers order/7 --cancel --dry-run             count what would be cancelled")]
pub(crate) struct TimersArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Cancel all timers of the recipient
    #[arg(long)]
    cancel: bool,
    /// Largest number of timers in the list
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "cancel")]
    limit: u32,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for TimersArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let of = &self.recipient;
        if !self.cancel {
            let options = InspectOptions::default().limit(self.limit);
            let detail = on!(&session.database, pool => admin::inspect(pool, of, &options).await)?;
            session.output().show(&detail.timers, || read::timers(&detail))?;
            return Ok(Answer::Yes);
        }
        let hands = Hands::new(session, &self.writing);
        let deed = Deed {
            verb: ("cancels", "Cancelled"),
            object: Object::Many("timer", "timers", format!("of {of}")),
            nothing: format!("Nothing was changed: {of} has no timers."),
        };
        let act = async |rehearsing, bar: ProgressBar| {
            let progress = |cancelled| bar.set_position(cancelled);
            on!(&session.database, pool => hands.operator(pool, rehearsing).cancel_timers(of, progress).await)
        };
        hands.act_after_a_question(&deed, act).await
    }
}
