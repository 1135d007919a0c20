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
        let nothing = "paused already";
        set_paused(session, &self.target, &self.writing, true, ("pauses", "Paused"), nothing).await
    }
}

impl Run for ResumeArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let nothing = if self.target.recipient.is_some() { "neither paused nor failing" } else { "not paused" };
        set_paused(session, &self.target, &self.writing, false, ("resumes", "Resumed"), nothing).await
    }
}

async fn set_paused(
    session: &Session,
    target: &Target,
    writing: &Writing,
    is_paused: bool,
    verb: (&'static str, &'static str),
    nothing: &str,
) -> Result<Answer> {
    let hands = Hands::new(session, writing);
    let name = target.name();
    let kind = target.kind.as_deref().unwrap_or_default();
    let nothing = format!("Nothing was changed: {name} was {nothing}.");
    let deed = Deed { verb, object: Object::One(name), nothing };
    let act = async |rehearsing, _| {
        on!(&session.database, pool => {
            let operator = hands.operator(pool, rehearsing);
            match (&target.recipient, is_paused) {
                (Some(recipient), true) => operator.pause(recipient).await,
                (Some(recipient), false) => operator.resume(recipient).await,
                (None, true) => operator.pause_kind(kind).await,
                (None, false) => operator.resume_kind(kind).await,
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
