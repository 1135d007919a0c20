//! `eventbox quarantine`: takes events aside.

use anyhow::Result;
use eventbox::{EventId, Recipient};

use crate::operate::args::{Writing, event_id, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Takes events out of a box, so that the others go on
///
/// The events are kept. `eventbox dead replay` puts them back, in their place of the order.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox show order/7 --values                         find the event
  eventbox quarantine order/7 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b --reason 'no such seat'")]
pub(crate) struct QuarantineArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Ids of the events
    #[arg(value_name = "EVENT_ID", value_parser = event_id, required = true)]
    events: Vec<EventId>,
    /// Reason, which is kept beside the events
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for QuarantineArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let QuarantineArgs { recipient: of, events, reason, .. } = &self;
        let deed = Deed {
            verb: ("quarantines", "Quarantined"),
            object: Object::Many("event", "events", format!("of {of}")),
            nothing: format!("Nothing was changed: {of} has no such event in its box."),
        };
        let act = async |rehearsing, _| {
            let database = &session.database;
            on!(database, pool => hands.operator(pool, rehearsing).quarantine(of, events, reason).await)
        };
        hands.act_after_a_question(&deed, act).await
    }
}
