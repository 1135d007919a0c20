//! `eventbox state`: shows or replaces the state that the library keeps.

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};
use eventbox::Recipient;
use eventbox::admin::{self, StoredState};
use serde_json::{Value, json};

use super::emit::file_or_input;
use crate::operate::args::{Writing, recipient};
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::print::words::{plain, plain_lines, size, value};
use crate::operate::print::{Format, line, note, raw};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Shows or replaces the state that the library keeps for a reducer
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox state get order/7 > state.json
  eventbox state set order/7 state.json                  ask, and compare the turn
  eventbox state set order/7 state.json --at-turn 12 --yes
  eventbox state set order/7 --clear")]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    command: StateCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StateCommand {
    Get(GetArgs),
    Set(SetArgs),
}

/// Prints the bytes of the state as they are; on a terminal without control characters
///
/// The exit code is 1 when the library keeps no state of the recipient.
#[derive(Debug, clap::Args)]
struct GetArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
}

/// Replaces the state, if no turn came in between
#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// File with the bytes of the new state, or - for standard input
    #[arg(value_name = "FILE", required_unless_present = "clear", conflicts_with = "clear")]
    file: Option<String>,
    /// Delete the state: the next turn begins with the default state
    #[arg(long)]
    clear: bool,
    /// Refuse if the recipient is at another turn [default: the turn at the begin of the command]
    #[arg(long, value_name = "TURN")]
    at_turn: Option<i64>,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for StateArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        match self.command {
            StateCommand::Get(args) => get(&args.recipient, session).await,
            StateCommand::Set(args) => set(&args, session).await,
        }
    }
}

async fn get(of: &Recipient, session: &Session) -> Result<Answer> {
    let stored = on!(&session.database, pool => admin::stored_state(pool, of).await)?;
    if session.output().format == Format::Json {
        session.output().show(&document(of, &stored), String::new)?;
        return Ok(if stored.state.is_some() { Answer::Yes } else { Answer::No });
    }
    let Some(state) = &stored.state else {
        note(&format!("The library keeps no state of {} at turn {}.", plain(of.as_str()), stored.turn));
        return Ok(Answer::No);
    };
    note(&format!("{} at turn {}:", plain(of.as_str()), stored.turn));
    match std::str::from_utf8(state) {
        Ok(text) if io::stdout().is_terminal() => line(&plain_lines(text))?,
        Err(_) if io::stdout().is_terminal() => line(&value(state))?,
        _ => raw(state)?,
    }
    Ok(Answer::Yes)
}

/// Returns the JSON of a state. The content is `json` if the bytes are JSON, `text` if they are UTF-8, else `bytes` in
/// hexadecimal digits.
fn document(of: &Recipient, stored: &StoredState) -> Value {
    let bytes = stored.state.as_ref().map(|state| state.len());
    let mut document = json!({ "recipient": of.as_str(), "turn": stored.turn, "size": bytes });
    if let (Some(state), Some(fields)) = (&stored.state, document.as_object_mut()) {
        let (name, content) = content(state);
        fields.insert(name.to_owned(), content);
    }
    document
}

/// Returns bytes as JSON, with the name of their form.
pub(crate) fn content(bytes: &[u8]) -> (&'static str, Value) {
    match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
        (Ok(json), _) => ("json", json),
        (Err(_), Ok(text)) => ("text", text.into()),
        (Err(_), Err(_)) => ("bytes", value(bytes).into()),
    }
}

async fn set(args: &SetArgs, session: &Session) -> Result<Answer> {
    let hands = Hands::new(session, &args.writing);
    let of = &args.recipient;
    let new = match &args.file {
        Some(file) => Some(file_or_input(file).await?),
        None => None,
    };
    let stored = on!(&session.database, pool => admin::stored_state(pool, of).await)?;
    let turn = args.at_turn.unwrap_or(stored.turn);
    if turn != stored.turn {
        bail!("{of} is at turn {} and not at turn {turn}: read its state again", stored.turn);
    }
    let size_of = |state: Option<usize>| state.map_or("no state".to_owned(), |bytes| size(bytes as u64));
    let (before, after) = (size_of(stored.state.map(|state| state.len())), size_of(new.as_ref().map(Vec::len)));
    let deed = Deed {
        verb: ("replaces", "Replaced"),
        object: Object::One(format!("the state of {of} at turn {turn} ({before}) by {after}")),
        nothing: format!("Nothing was changed: {of} has no state to replace."),
    };
    let act = async |rehearsing, _| {
        let database = &session.database;
        on!(database, pool => hands.operator(pool, rehearsing).set_state(of, turn, new.as_deref()).await)
    };
    hands.act_after_a_question(&deed, act).await
}
