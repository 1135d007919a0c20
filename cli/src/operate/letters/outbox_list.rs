//! `eventbox outbox list`: the messages on their way out.

use anyhow::Result;
use eventbox::admin::{self, MessageView, OutboxGroups};
use eventbox::outbox::DeadLetterId;

use super::dead_filter::letter_id;
use super::outbox::MessageArgs;
use crate::operate::Answer;
use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{NONE, origin, paused_line, relative, size};
use crate::operate::session::Session;

/// Lists the messages of the outbox, in groups or one by one
///
/// A group has the messages of one source and type whose last attempt ended alike. The paused destinations follow.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// List single messages
    #[arg(long)]
    messages: bool,
    /// Begin behind this message, the last of the page before
    #[arg(long, value_name = "ID", value_parser = letter_id, requires = "messages")]
    after: Option<DeadLetterId>,
    /// Largest number of messages
    #[arg(long, value_name = "N", default_value_t = 50, requires = "messages")]
    limit: u32,
    #[command(flatten, next_help_heading = "Filter, with --messages")]
    filter: MessageArgs,
}

pub(super) async fn list(args: &ListArgs, session: &Session) -> Result<Answer> {
    if !args.messages {
        let groups = on!(&session.database, pool => admin::message_groups(pool).await)?;
        session.output().show(&groups, || table_of_groups(&groups))?;
        if !groups.is_complete {
            note("There are too many messages to look at all of them.");
        }
        return Ok(Answer::Yes);
    }
    let filter = args.filter.filter();
    let messages = on!(&session.database, pool => admin::messages(pool, &filter, args.after, args.limit).await)?;
    session.output().show(&messages, || table_of_messages(&messages))?;
    if let Some(last) = messages.last().filter(|_| messages.len() as u64 == u64::from(args.limit)) {
        note(&format!("There may be more: --after {}", last.id));
    }
    Ok(Answer::Yes)
}

fn table_of_groups(groups: &OutboxGroups) -> String {
    let mut grid = Grid::new(&[
        short("source"),
        short("type"),
        number("messages"),
        short("oldest"),
        short("next attempt"),
        number("attempts"),
        short("code").if_any(),
        short("remarks").if_any(),
        long("error").if_any(),
    ]);
    for group in &groups.groups {
        let failing = Tone::when(group.most_attempts > 1, Tone::Bad);
        grid.row([
            text(&group.source),
            text(&group.event_type),
            text(group.messages.to_string()),
            text(relative(group.oldest_at)),
            text(relative(group.next_attempt_at)),
            cell(group.most_attempts.to_string(), failing),
            cell(group.last_code.as_deref().unwrap_or(NONE), failing),
            cell(if group.paused.is_some() { "paused" } else { "" }, Tone::Warning),
            cell(group.last_error.as_deref().unwrap_or(NONE), failing),
        ]);
    }
    let lines: Vec<String> = groups.paused.iter().map(paused_line).collect();
    [vec![grid.or("The outbox is empty.")], lines].concat().join("\n")
}

fn table_of_messages(messages: &[MessageView]) -> String {
    let mut grid = Grid::new(&[
        short("id"),
        short("source"),
        short("type"),
        short("created"),
        short("next attempt"),
        number("attempts"),
        number("size"),
        short("code").if_any(),
        long("error").if_any(),
        long("origin").if_any(),
    ]);
    for message in messages {
        let failing = Tone::when(message.attempts > 1, Tone::Bad);
        grid.row([
            text(message.id.to_string()),
            text(&message.source),
            text(&message.event_type),
            text(relative(message.created_at)),
            text(relative(message.next_attempt_at)),
            cell(message.attempts.to_string(), failing),
            text(size(message.bytes)),
            cell(message.last_code.as_deref().unwrap_or(NONE), failing),
            cell(message.last_error.as_deref().unwrap_or(NONE), failing),
            text(origin(message.origin.as_ref())),
        ]);
    }
    grid.or("There are no such messages.")
}
