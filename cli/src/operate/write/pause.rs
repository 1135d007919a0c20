//! `eventbox pause`, `eventbox resume` and `eventbox retry`.

use std::fmt;

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin::Destination;

use crate::operate::args::{Writing, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Pauses a recipient, a whole kind, or the delivery of messages, until they are resumed
///
/// Events of a paused recipient or kind wait in their boxes. Messages of a paused source, type or both wait in the
/// outbox, keep their attempts, and do not expire. Each process learns of it within a second, and may still send what
/// it has in its queue by then.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox pause order/7 --why 'support asked'
  eventbox pause --kind order                            pause each order, also those to come
  eventbox pause --source shop --dry-run                 how many messages of the shop wait now
  eventbox pause --source shop --type order.paid         send none of these messages
  eventbox pause --all-messages                          send nothing")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Resumes a paused recipient or kind, or the delivery of messages
///
/// A resumed recipient is due at once, as if it had never failed. A recipient that is paused itself stays paused when
/// its kind is resumed. Messages are resumed by the source and type that were paused: `eventbox outbox list` names
/// them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox resume order/7
  eventbox resume --kind order
  eventbox resume --source shop --type order.paid")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Retries a failing recipient at once, without the rest of its back-off
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox retry order/7
  eventbox boxes --failing --json | jq -r .rows[].recipient | xargs -n1 eventbox retry")]
pub(crate) struct RetryArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

// No doc comment: clap would show it as the description of the command.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Target {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient, conflicts_with_all = ["kind", "source", "event_type", "all_messages"])]
    recipient: Option<Recipient>,
    /// The whole kind
    #[arg(long, conflicts_with_all = ["source", "event_type", "all_messages"])]
    kind: Option<String>,
    /// Messages with this source, of the type if one is given
    #[arg(long)]
    source: Option<String>,
    /// Messages of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// All messages of the outbox
    #[arg(long, conflicts_with_all = ["source", "event_type"])]
    all_messages: bool,
}

/// What is paused or resumed.
enum Aim {
    Recipient(Recipient),
    Kind(String),
    Messages(Destination),
}

impl Target {
    /// Returns what the command is about. The group of arguments requires one of them.
    fn aim(&self) -> Aim {
        if let Some(recipient) = &self.recipient {
            return Aim::Recipient(recipient.clone());
        }
        if let Some(kind) = &self.kind {
            return Aim::Kind(kind.clone());
        }
        let mut destination = Destination::all();
        if let Some(source) = &self.source {
            destination = destination.source(source.as_str());
        }
        if let Some(event_type) = &self.event_type {
            destination = destination.event_type(event_type.as_str());
        }
        Aim::Messages(destination)
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aim::Recipient(recipient) => write!(f, "{recipient}"),
            Aim::Kind(kind) => write!(f, "the kind {kind}"),
            Aim::Messages(destination) => write!(f, "the delivery of {destination}"),
        }
    }
}

impl Run for PauseArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        set_paused(session, self.target.aim(), &self.writing, true).await
    }
}

impl Run for ResumeArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        set_paused(session, self.target.aim(), &self.writing, false).await
    }
}

async fn set_paused(session: &Session, aim: Aim, writing: &Writing, is_paused: bool) -> Result<Answer> {
    let hands = Hands::new(session, writing);
    let (verb, already) = match (is_paused, &aim) {
        (true, _) => (("pauses", "Paused"), "paused already"),
        (false, Aim::Recipient(_)) => (("resumes", "Resumed"), "neither paused nor failing"),
        (false, _) => (("resumes", "Resumed"), "not paused"),
    };
    let nothing = format!("Nothing was changed: {aim} was {already}.");
    let deed = Deed { verb, object: Object::One(aim.to_string()), nothing };
    let act = async |rehearsing, _| {
        on!(&session.database, pool => {
            let operator = hands.operator(pool, rehearsing);
            match (&aim, is_paused) {
                (Aim::Recipient(recipient), true) => operator.pause(recipient).await,
                (Aim::Recipient(recipient), false) => operator.resume(recipient).await,
                (Aim::Kind(kind), true) => operator.pause_kind(kind).await,
                (Aim::Kind(kind), false) => operator.resume_kind(kind).await,
                (Aim::Messages(destination), true) => operator.pause_destination(destination).await,
                (Aim::Messages(destination), false) => operator.resume_destination(destination).await,
            }
        })
    };
    hands.act(&deed, act).await
}

impl Run for RetryArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let of = &self.recipient;
        let nothing = format!("Nothing was changed: {of} is not failing, or it is paused.");
        let deed = Deed { verb: ("makes", "Made"), object: Object::One(format!("{of} due at once")), nothing };
        let act =
            async |rehearsing, _| on!(&session.database, pool => hands.operator(pool, rehearsing).try_now(of).await);
        hands.act(&deed, act).await
    }
}
