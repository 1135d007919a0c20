//! `eventbox dead list` and `eventbox dead show`.

use std::io::{self, IsTerminal};

use anyhow::Result;
use eventbox::CloudEvent;
use eventbox::admin::{self, DeadFilter, DeadView};
use eventbox::outbox::DeadLetterId;
use eventbox::uuid::Uuid;
use serde_json::json;

use super::dead_filter::{FilterArgs, letter_id};
use crate::operate::Answer;
use crate::operate::connect::on;
use crate::operate::print::table::{Facts, Grid, long, number, short, text};
use crate::operate::print::words::{NONE, origin, plain, plain_lines, relative, size, value};
use crate::operate::print::{Format, line, note, raw};
use crate::operate::session::Session;
use crate::operate::write::content;

/// Lists dead letters
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Begin behind this dead letter, the last of the page before
    #[arg(long, value_name = "ID", value_parser = letter_id)]
    after: Option<DeadLetterId>,
    /// Largest number of dead letters
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    #[command(flatten, next_help_heading = "Filter")]
    filter: FilterArgs,
}

/// Shows one dead letter with its value
///
/// Standard output gets the value: in a pipe as it is, on a terminal without control characters. Standard error gets
/// the rest. The exit code is 1 when there is no such dead letter.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Id of the dead letter, from the list
    #[arg(value_parser = letter_id)]
    id: DeadLetterId,
}

pub(super) async fn list(args: &ListArgs, session: &Session) -> Result<Answer> {
    let filter = args.filter.filter();
    let letters = on!(&session.database, pool => admin::dead(pool, &filter, args.after, args.limit).await)?;
    session.output().show(&letters, || table(&letters))?;
    if let Some(last) = letters.last().filter(|_| letters.len() as u64 == u64::from(args.limit)) {
        note(&format!("There may be more: --after {}", last.id));
    }
    Ok(Answer::Yes)
}

fn table(letters: &[DeadView]) -> String {
    let mut grid = Grid::new(&[
        short("id"),
        short("of"),
        short("code"),
        number("attempts").if_any(),
        short("since"),
        number("size"),
        long("reason"),
        long("origin").if_any(),
    ]);
    for letter in letters {
        grid.row([
            text(letter.id.to_string()),
            text(owner(letter)),
            text(&letter.code),
            text(letter.attempts.to_string()),
            text(relative(letter.dead_at)),
            text(size(letter.bytes)),
            text(&letter.reason),
            text(origin(letter.origin.as_ref())),
        ]);
    }
    grid.or("There are no such dead letters.")
}

/// Returns the recipient of an event, or the source and type of a message.
fn owner(letter: &DeadView) -> String {
    match (&letter.recipient, &letter.source, &letter.event_type) {
        (Some(recipient), ..) => recipient.to_string(),
        (None, Some(source), Some(event_type)) => format!("{source} {event_type}"),
        (None, source, _) => source.clone().unwrap_or_else(|| NONE.to_owned()),
    }
}

pub(super) async fn show(args: &ShowArgs, session: &Session) -> Result<Answer> {
    let id = args.id;
    let letter = find(id, session).await?;
    let found = on!(&session.database, pool => admin::dead_value(pool, id).await)?;
    let Some((letter, bytes)) = letter.zip(found) else {
        note(&format!("There is no dead letter {id}."));
        return Ok(Answer::No);
    };
    if session.output().format == Format::Json {
        let (name, content) = content(&bytes);
        session
            .output()
            .show(&json!({ "dead": letter, name: content, "message": message(&letter, &bytes) }), String::new)?;
        return Ok(Answer::Yes);
    }
    note(&facts(&letter));
    match std::str::from_utf8(&bytes) {
        Ok(text) if io::stdout().is_terminal() => line(&plain_lines(text))?,
        Err(_) if io::stdout().is_terminal() => line(&value(&bytes))?,
        _ => raw(&bytes)?,
    }
    Ok(Answer::Yes)
}

/// Finds a dead letter by its id: the first one behind the greatest smaller id.
async fn find(id: DeadLetterId, session: &Session) -> Result<Option<DeadView>> {
    let (shard, before) = (u8::try_from(id.shard())?, Uuid::from_u128(id.id().as_u128().saturating_sub(1)));
    let after = Some(DeadLetterId::new(shard, before));
    let filter = DeadFilter::new();
    let found = on!(&session.database, pool => admin::dead(pool, &filter, after, 1).await)?;
    Ok(found.into_iter().find(|letter| letter.id == id))
}

/// Returns what a person wants to know of the CloudEvent in a message.
fn message(letter: &DeadView, bytes: &[u8]) -> Option<serde_json::Value> {
    let event = letter.recipient.is_none().then(|| CloudEvent::decode(bytes).ok()).flatten()?;
    Some(json!({ "id": event.id(), "source": event.source(), "type": event.event_type(), "subject": event.subject() }))
}

fn facts(letter: &DeadView) -> String {
    let mut facts = Facts::new();
    facts.add("dead letter", letter.id.to_string());
    facts.add("of", plain(&owner(letter)));
    facts.add("name", plain(letter.name.as_deref().unwrap_or(NONE)));
    if letter.origin.is_some() {
        facts.add("origin", plain(&origin(letter.origin.as_ref())));
    }
    facts.add("code", plain(&letter.code));
    facts.add("reason", plain(&letter.reason));
    facts.add("attempts", letter.attempts.to_string());
    facts.add("since", relative(letter.dead_at));
    facts.add("size", size(letter.bytes));
    facts.lines()
}
