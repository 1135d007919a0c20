//! `eventbox emit`: puts one event into a box.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use eventbox::{Emitted, Event, Recipient};
use serde_json::json;

use crate::operate::args::{Writing, recipient};
use crate::operate::ask::{Hands, in_a_thread};
use crate::operate::connect::on;
use crate::operate::print::words::plain;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Emits an event to a recipient, at once or later
///
/// With a name, a second emit of the same name changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox emit order/7 '{\"paid\": true}' --name payment-1
  eventbox emit order/7 @event.json                      take the value from a file
  eventbox emit order/7 - < event.json                   take the value from standard input
  eventbox emit order/7 'not paid yet?' --in 3days       emit a timer")]
pub(crate) struct EmitArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Value: the text itself, @FILE for the bytes of a file, or - for those of standard input
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: String,
    /// Name of the event, its idempotency key
    #[arg(long)]
    name: Option<String>,
    /// Move the event into its box after this time: 90s, 5m, 3days
    #[arg(long = "in", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "at")]
    after: Option<Duration>,
    /// Move the event into its box at this time: 2026-01-31T08:00:00Z
    #[arg(long, value_name = "RFC3339", value_parser = humantime::parse_rfc3339)]
    at: Option<SystemTime>,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for EmitArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let hands = Hands::new(session, &self.writing);
        let mut event = Event::new(content(&self.value).await?);
        if let Some(name) = self.name {
            event = event.named(name);
        }
        if let Some(wait) = self.after {
            event = event.due_in(wait);
        }
        if let Some(at) = self.at {
            event = event.due_at(at);
        }
        let (to, is_rehearsal) = (&self.recipient, hands.is_dry_run());
        let emitted = on!(&session.database, pool => hands.operator(pool, is_rehearsal).emit(to, event.clone()).await)?;
        let (word, sentence) = match emitted {
            Emitted::Added if is_rehearsal => ("added", "This adds the event to {}. Nothing was changed."),
            Emitted::Added => ("added", "Added the event to {}."),
            Emitted::Duplicate => ("duplicate", "{} has an event of this name already, so nothing was changed."),
            _ => ("tombstoned", "{} had an event of this name, so nothing was changed."),
        };
        let document = json!({ "recipient": to.as_str(), "emitted": word, "is_rehearsal": is_rehearsal });
        session.output().show(&document, || sentence.replace("{}", &plain(to.as_str())))?;
        Ok(Answer::Yes)
    }
}

/// Returns the bytes that an argument stands for: itself, a file behind `@`, or standard input for `-`.
async fn content(argument: &str) -> Result<Vec<u8>> {
    match argument.strip_prefix('@') {
        Some(file) => file_or_input(file).await,
        None if argument == "-" => file_or_input("-").await,
        None => Ok(argument.as_bytes().to_vec()),
    }
}

/// Reads a file, or standard input for `-`.
pub(super) async fn file_or_input(file: &str) -> Result<Vec<u8>> {
    if file == "-" {
        let read = || {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        };
        return in_a_thread(read).await.context("read standard input");
    }
    std::fs::read(file).with_context(|| format!("cannot read {file}"))
}
