//! `eventbox purge`: deletes events for good.

use anyhow::Result;
use eventbox::{EventId, Recipient};

use crate::operate::args::{Writing, event_id, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Deletes events and timers of a recipient for good: the named ones, or all
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox purge order/7 --dry-run                       count what would be deleted
  eventbox purge order/7                                 delete all events and timers
  eventbox purge order/7 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b --yes")]
pub(crate) struct PurgeArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Ids of the events; without them, all events and timers
    #[arg(value_name = "EVENT_ID", value_parser = event_id)]
    events: Vec<EventId>,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for PurgeArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let PurgeArgs { recipient: of, events, .. } = &self;
        let deed = Deed {
            verb: ("deletes", "Deleted"),
            object: Object::Many("event", "events", format!("of {of}")),
            nothing: format!("Nothing was changed: {of} has no such event."),
        };
        let act = async |rehearsing, bar: indicatif::ProgressBar| {
            on!(&session.database, pool => {
                let operator = hands.operator(pool, rehearsing);
                match events.is_empty() {
                    true => operator.purge_all(of, |deleted| bar.set_position(deleted)).await,
                    false => operator.purge(of, events).await,
                }
            })
        };
        hands.act_after_a_question(&deed, act).await
    }
}
