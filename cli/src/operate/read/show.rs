//! `eventbox show`: one recipient in full.

use anyhow::Result;
use eventbox::Recipient;
use eventbox::admin::{self, Detail, InspectOptions, QuarantinedView, StateView, StreamView};

use crate::operate::args::recipient;
use crate::operate::connect::on;
use crate::operate::print::table::{Column, Facts, Grid, long, number, short, text};
use crate::operate::print::words::{
    NONE, counted, origin, plain, plain_lines, relative, relative_or_none, size, span, value,
};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Shows a recipient in full: turn, state, failures, events, timers, names, worker
///
/// The command needs no recipient that exists. Values of events are shown only with --values.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox show order/7
  eventbox show order/7 --values --limit 5               with the values of the five oldest events
  eventbox show order/7 --json | jq .events[0].value")]
pub(crate) struct ShowArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Show the values of the events too
    #[arg(long)]
    values: bool,
    /// Largest number of events, and of each of the other things
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

impl Run for ShowArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let options = InspectOptions::default().limit(self.limit).with_values(self.values);
        let detail = on!(&session.database, pool => admin::inspect(pool, &self.recipient, &options).await)?;
        session.output().show(&detail, || page(&detail, self.values))?;
        Ok(Answer::Yes)
    }
}

fn page(detail: &Detail, with_values: bool) -> String {
    let mut parts = vec![facts(detail)];
    if !detail.events.is_empty() {
        parts.push(events(detail, with_values));
    }
    if !detail.timers.is_empty() {
        parts.push(format!("Timers\n{}", timers(detail)));
    }
    if !detail.quarantined.is_empty() {
        parts.push(quarantined(&detail.quarantined));
    }
    if !detail.names.is_empty() {
        parts.push(format!("Names\n{}", names(detail)));
    }
    parts.join("\n\n")
}

fn facts(detail: &Detail) -> String {
    let standing = &detail.standing;
    let mut facts = Facts::new();
    facts.add("recipient", plain(detail.recipient.as_str()));
    facts.add(
        "turn",
        match standing.updated_at {
            Some(at) => format!("{}, {}", standing.turn, relative(at)),
            None => "none yet".to_owned(),
        },
    );
    facts.add("state", state(detail.state.as_ref()));
    let oldest = detail.oldest_at.map(|at| format!(", the oldest {}", relative(at))).unwrap_or_default();
    facts.add("waiting", format!("{}{oldest}", detail.waiting));
    facts.add(
        "paused",
        match (standing.paused, standing.kind_paused) {
            (true, true) => "yes, and so is its kind",
            (true, false) => "yes",
            (false, true) => "its kind is",
            (false, false) => "no",
        },
    );
    if standing.attempts > 0 {
        let attempts = counted(standing.attempts.into(), "attempt", "attempts");
        let error = plain(standing.error.as_deref().unwrap_or(NONE));
        facts.add("failing", format!("{attempts}, the next {}\n{error}", relative_or_none(standing.next_attempt_at)));
    }
    facts.add("shard", detail.shard.to_string());
    facts.add("held by", holder(detail));
    if let Some(stream) = &detail.stream {
        facts.add("stream", open_stream(stream));
    }
    facts.lines()
}

fn state(state: Option<&StateView>) -> String {
    let Some(state) = state else { return "none that the library keeps".to_owned() };
    match &state.json {
        Some(json) => format!("{}\n{}", size(state.bytes as u64), plain_lines(json)),
        None => size(state.bytes as u64),
    }
}

fn holder(detail: &Detail) -> String {
    let Some(left) = detail.lease.expires_in else { return "no process".to_owned() };
    let lease = format!("lease {} for {}", detail.lease.generation, span(left));
    match (&detail.holder, detail.lease.holder) {
        (Some(member), _) => {
            let (worker, address) = (member.worker, plain(&member.address));
            format!("{worker} at {address}, heard {} ago, {lease}", span(member.silent_for))
        }
        (None, Some(worker)) => format!("{worker}, which is no member, {lease}"),
        (None, None) => "no process".to_owned(),
    }
}

fn open_stream(stream: &StreamView) -> String {
    let process = plain(&stream.address.clone().unwrap_or_else(|| stream.worker.to_string()));
    let silence = if stream.is_alive { "" } else { ", which is silent" };
    let mut line = format!("open in {process}{silence}, since {}", relative(stream.started_at));
    for (key, value) in &stream.facts {
        line.push_str(&format!("\n{}", plain(&format!("{key}: {value}"))));
    }
    line
}

fn events(detail: &Detail, with_values: bool) -> String {
    let header: &[Column] = match with_values {
        true => &[
            short("event"),
            short("emitted"),
            long("name").if_any(),
            long("origin").if_any(),
            number("size"),
            long("value"),
        ],
        false => &[short("event"), short("emitted"), long("name").if_any(), long("origin").if_any(), number("size")],
    };
    let mut grid = Grid::new(header);
    for event in &detail.events {
        let mut cells = vec![
            text(event.id.to_string()),
            text(relative(event.emitted_at)),
            text(event.name.as_deref().unwrap_or(NONE)),
            text(origin(event.origin.as_ref())),
            text(size(event.bytes)),
        ];
        if with_values {
            cells.push(text(event.value.as_deref().map_or_else(|| NONE.to_owned(), value)));
        }
        grid.row(cells);
    }
    format!("Oldest events\n{}", grid.or(NONE))
}

/// Formats the timers of a recipient.
pub(crate) fn timers(detail: &Detail) -> String {
    let mut grid =
        Grid::new(&[short("event"), short("due"), long("name").if_any(), long("origin").if_any(), number("size")]);
    for timer in &detail.timers {
        grid.row([
            text(timer.id.to_string()),
            text(relative(timer.due_at)),
            text(timer.name.as_deref().unwrap_or(NONE)),
            text(origin(timer.origin.as_ref())),
            text(size(timer.bytes)),
        ]);
    }
    grid.or("The recipient has no timers.")
}

fn quarantined(events: &[QuarantinedView]) -> String {
    let mut grid = Grid::new(&[
        short("dead letter"),
        long("name").if_any(),
        long("origin").if_any(),
        number("size"),
        short("code"),
        number("attempts").if_any(),
        short("since"),
        long("reason"),
    ]);
    for event in events {
        grid.row([
            text(event.dead_letter.to_string()),
            text(event.name.as_deref().unwrap_or(NONE)),
            text(origin(event.origin.as_ref())),
            text(size(event.bytes)),
            text(&event.code),
            text(event.attempts.to_string()),
            text(relative(event.quarantined_at)),
            text(&event.reason),
        ]);
    }
    format!("In quarantine\n{}", grid.or(NONE))
}

/// Formats the remembered names of a recipient.
pub(crate) fn names(detail: &Detail) -> String {
    let mut grid = Grid::new(&[short("event"), short("event gone"), long("name")]);
    for name in &detail.names {
        let gone = name.gone_at.map_or_else(|| "not noticed yet".to_owned(), relative);
        grid.row([text(name.id.to_string()), text(gone), text(&name.name)]);
    }
    grid.or("The recipient has no names.")
}
