//! `eventbox outbox`: the messages on their way out, and what to do with those that do not leave.

use anyhow::{Result, ensure};
use eventbox::admin::MessageFilter;
use indicatif::ProgressBar;

use super::outbox_list;
use crate::operate::args::Writing;
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the messages of the outbox, retries them at once, or makes them dead letters
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox outbox list                                   groups of one source, type and last error
  eventbox outbox list --messages --code Unavailable
  eventbox outbox retry --source shop                    do not wait for the back-off
  eventbox outbox dead --source shop --type order.paid --reason 'the schema is gone'")]
pub(crate) struct OutboxArgs {
    #[command(subcommand)]
    command: OutboxCommand,
}

#[derive(Debug, clap::Subcommand)]
enum OutboxCommand {
    List(outbox_list::ListArgs),
    Retry(RetryArgs),
    Dead(BuryArgs),
}

/// Makes messages due at once
#[derive(Debug, clap::Args)]
struct RetryArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Makes messages dead letters, so that they are not sent any more
///
/// `eventbox dead replay --messages` puts them back.
#[derive(Debug, clap::Args)]
struct BuryArgs {
    /// Reason, which is kept beside the messages
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

// No doc comments on the next two: clap would show them as the descriptions of commands.

#[derive(Debug, clap::Args)]
struct Which {
    /// All messages of the outbox
    #[arg(long)]
    all: bool,
    #[command(flatten, next_help_heading = "Filter")]
    filter: MessageArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct MessageArgs {
    /// Only messages with this source
    #[arg(long)]
    source: Option<String>,
    /// Only messages of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only messages whose last attempt ended with this code
    #[arg(long)]
    code: Option<String>,
}

impl MessageArgs {
    pub(super) fn filter(&self) -> MessageFilter {
        let mut filter = MessageFilter::new();
        if let Some(source) = &self.source {
            filter = filter.source(source.as_str());
        }
        if let Some(event_type) = &self.event_type {
            filter = filter.event_type(event_type.as_str());
        }
        if let Some(code) = &self.code {
            filter = filter.code(code.as_str());
        }
        filter
    }
}

impl Which {
    /// Returns the filter, after a check that the command names what it is about.
    fn filter(&self) -> Result<MessageFilter> {
        let MessageArgs { source, event_type, code } = &self.filter;
        let is_open = [source, event_type, code].iter().all(|text| text.is_none());
        ensure!(!is_open || self.all, "give --source, --type or --code, or --all for each message of the outbox");
        ensure!(is_open || !self.all, "--all and a filter exclude each other: give one of the two");
        Ok(self.filter.filter())
    }
}

fn deed(verb: (&'static str, &'static str), rest: &str) -> Deed {
    Deed {
        verb,
        object: Object::Many("message", "messages", rest.to_owned()),
        nothing: "Nothing was changed: there are no such messages.".to_owned(),
    }
}

impl Run for OutboxArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        match self.command {
            OutboxCommand::List(args) => outbox_list::list(&args, session).await,
            OutboxCommand::Retry(args) => {
                let hands = Hands::new(session, &args.writing);
                let filter = args.which.filter()?;
                let act = async |rehearsing, bar: ProgressBar| {
                    let progress = |touched| bar.set_position(touched);
                    on!(&session.database, pool => {
                        hands.operator(pool, rehearsing).retry_messages(&filter, progress).await
                    })
                };
                hands.act(&deed(("makes", "Made"), "due at once"), act).await
            }
            OutboxCommand::Dead(args) => {
                let hands = Hands::new(session, &args.writing);
                let filter = args.which.filter()?;
                let act = async |rehearsing, bar: ProgressBar| {
                    let progress = |touched| bar.set_position(touched);
                    on!(&session.database, pool => {
                        hands.operator(pool, rehearsing).bury_messages(&filter, &args.reason, progress).await
                    })
                };
                hands.act_after_a_question(&deed(("makes", "Made"), "dead letters"), act).await
            }
        }
    }
}
