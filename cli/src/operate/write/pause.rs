//! `eventbox pause`, `eventbox resume` and `eventbox retry`.

use anyhow::Result;
use eventbox::Recipient;

use crate::operate::args::{Writing, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Pauses a recipient or a whole kind: its events wait until they are resumed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox pause order/7 --why 'support asked'
  eventbox pause --kind order                            pause each order, also those to come")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Resumes a paused recipient or kind
///
/// A resumed recipient is due at once, as if it had never failed. A recipient that is paused itself stays paused when
/// its kind is resumed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox resume order/7
  eventbox resume --kind order")]
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
#[group(required = true, multiple = false)]
struct Target {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Option<Recipient>,
    /// The whole kind
    #[arg(long)]
    kind: Option<String>,
}

impl Target {
    /// Returns the name of the target. The group of arguments requires one of the two.
    fn name(&self) -> String {
        match (&self.recipient, &self.kind) {
            (Some(recipient), _) => recipient.to_string(),
            (None, kind) => format!("the kind {}", kind.as_deref().unwrap_or_default()),
        }
    }
}

impl Run for PauseArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let Target { recipient, kind } = &self.target;
        let name = self.target.name();
        let nothing = format!("Nothing was changed: {name} was paused already.");
        let deed = Deed { verb: ("pauses", "Paused"), object: Object::One(name), nothing };
        let act = async |rehearsing, _| {
            on!(&session.database, pool => {
                let operator = hands.operator(pool, rehearsing);
                match recipient {
                    Some(recipient) => operator.pause(recipient).await,
                    None => operator.pause_kind(kind.as_deref().unwrap_or_default()).await,
                }
            })
        };
        hands.act(&deed, act).await
    }
}

impl Run for ResumeArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let Target { recipient, kind } = &self.target;
        let name = self.target.name();
        let problem = if recipient.is_some() { "neither paused nor failing" } else { "not paused" };
        let nothing = format!("Nothing was changed: {name} was {problem}.");
        let deed = Deed { verb: ("resumes", "Resumed"), object: Object::One(name), nothing };
        let act = async |rehearsing, _| {
            on!(&session.database, pool => {
                let operator = hands.operator(pool, rehearsing);
                match recipient {
                    Some(recipient) => operator.resume(recipient).await,
                    None => operator.resume_kind(kind.as_deref().unwrap_or_default()).await,
                }
            })
        };
        hands.act(&deed, act).await
    }
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
