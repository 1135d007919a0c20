//! `eventbox forget`: deletes what is kept of a recipient.

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin::{FORGET_AFTER, Forgotten};
use serde_json::json;

use crate::operate::args::{Writing, recipient};
use crate::operate::ask::Hands;
use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::words::{plain, span};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Deletes the turn, the state and the failures of a recipient that is gone for good
///
/// After a later emit, the turns of the recipient begin again at 1. The exit code is 1 when the recipient cannot be
/// forgotten: its box holds events, it has timers, it is paused, or it changed too recently.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox forget order/7 --dry-run
  eventbox forget order/7 --yes --why 'the customer asked'")]
pub(crate) struct ForgetArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for ForgetArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let of = &self.recipient;
        let forget =
            async |rehearsing| on!(&session.database, pool => hands.operator(pool, rehearsing).forget(of).await);
        let mut outcome = forget(true).await?;
        let name = plain(of.as_str());
        let is_rehearsal = hands.is_dry_run() || outcome != Forgotten::Done;
        if !is_rehearsal {
            if !hands.may_go_on(&format!("This deletes the turn, the state and the failures of {name}")).await? {
                note("Nothing was changed.");
                return Ok(Answer::No);
            }
            // Events may have arrived since.
            outcome = forget(false).await?;
        }
        let (word, sentence) = match outcome {
            Forgotten::Done if is_rehearsal => ("done", format!("This forgets {name}. Nothing was changed.")),
            Forgotten::Done => ("done", format!("Forgot {name}.")),
            Forgotten::NothingKept => ("nothing_kept", format!("Nothing is kept of {name}.")),
            Forgotten::HasEvents => ("has_events", refused(&name, "its box holds events: process or purge them")),
            Forgotten::HasTimers => ("has_timers", refused(&name, "it has timers: cancel them")),
            Forgotten::Paused => ("paused", refused(&name, "it is paused: resume it")),
            Forgotten::TooRecent => {
                ("too_recent", refused(&name, &format!("it changed within the last {}: wait", span(FORGET_AFTER))))
            }
            _ => ("refused", refused(&name, "the library refuses it")),
        };
        let document = json!({ "recipient": of.as_str(), "outcome": word, "is_rehearsal": hands.is_dry_run() });
        session.output().show(&document, || sentence)?;
        match outcome {
            Forgotten::Done | Forgotten::NothingKept => Ok(Answer::Yes),
            _ => Ok(Answer::No),
        }
    }
}

fn refused(name: &str, why: &str) -> String {
    format!("{name} is not forgotten, because {why}.")
}
