//! `eventbox members`: the worker processes.

use anyhow::Result;
use eventbox::admin::{self, Member};

use crate::operate::connect::on;
use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{breaker_words, span};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the worker processes, with their kinds and shards
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox members
  eventbox members --json | jq -r '.[] | select(.is_exiting) | .address'")]
pub(crate) struct MembersArgs {}

impl Run for MembersArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let members = on!(&session.database, pool => admin::members(pool).await)?;
        session.output().show(&members, || list(&members))?;
        Ok(Answer::Yes)
    }
}

fn list(members: &[Member]) -> String {
    let mut grid = Grid::new(&[
        short("worker"),
        short("address"),
        short("endpoint").if_any(),
        short("zone").if_any(),
        number("shards"),
        number("limit"),
        short("heard"),
        long("kinds"),
        long("labels").if_any(),
        long("remarks").if_any(),
    ]);
    for member in members {
        let mut remarks = Vec::new();
        if member.is_exiting {
            remarks.push("stops".to_owned());
        }
        if !member.throttled.is_empty() {
            remarks.push(format!("throttled: {}", member.throttled.join(", ")));
        }
        remarks.extend(member.breakers.iter().map(breaker_words));
        for held in &member.held {
            remarks.push(format!("holds {}, whose recipients fail alike: {}", held.kind, held.error));
        }
        for rated in &member.rated {
            remarks.push(format!("holds {} of {} because of its rates", rated.held, rated.kind));
        }
        for failing in &member.failing {
            remarks.push(format!("{} fails: {}", failing.recipient, failing.error));
        }
        for busy in &member.busy {
            remarks.push(format!("works on {} for {}", busy.recipient, span(busy.since)));
        }
        grid.row([
            text(member.worker.to_string()),
            text(&member.address),
            text(member.endpoint.as_deref().unwrap_or_default()),
            text(&member.zone),
            text(member.shards.to_string()),
            text(member.shard_limit.to_string()),
            text(format!("{} ago", span(member.silent_for))),
            text(member.kinds.join(", ")),
            text(labels(member)),
            cell(remarks.join("; "), Tone::Warning),
        ]);
    }
    grid.or("No worker process is a member.")
}

fn labels(member: &Member) -> String {
    member.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}
