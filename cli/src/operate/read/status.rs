//! `eventbox status`: the whole database on one page.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use console::Term;
use eventbox::admin::{self, KindOverview, Member, OutboxOverview, Overview};

use crate::failure::on_one_line;
use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{breaker_words, counted, paused_line, plain, relative, relative_or_none};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Shows the kinds of recipients, the outbox and the workers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox status
  eventbox status --watch                                show it again every 2 seconds
  eventbox status --json | jq '.kinds[] | select(.failing.number > 0) | .kind'")]
pub(crate) struct StatusArgs {
    /// Repeat it until interrupted; without a number every 2 seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

impl Run for StatusArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let Some(seconds) = self.watch else {
            let overview = on!(&session.database, pool => admin::overview(pool).await)?;
            session.output().show(&overview, || page(&overview))?;
            return Ok(Answer::Yes);
        };
        let terminal = std::io::stdout().is_terminal().then(Term::stdout);
        if let Some(terminal) = &terminal {
            terminal.clear_screen()?;
        }
        loop {
            match on!(&session.database, pool => admin::overview(pool).await) {
                Ok(overview) => {
                    if let Some(terminal) = &terminal {
                        terminal.move_cursor_to(0, 0)?;
                        terminal.clear_to_end_of_screen()?;
                    }
                    session.output().show(&overview, || page(&overview))?;
                }
                // The database may be back at the next interval.
                Err(error) if error.is_transient() => note(&format!("eventbox: {}", on_one_line(&error))),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }
}

fn page(overview: &Overview) -> String {
    let workers = match (overview.members.len() as u64, overview.free_shards) {
        (0, _) => "Workers: none".to_owned(),
        (members, 0) => format!("Workers: {}, each shard has a holder", counted(members, "process", "processes")),
        (members, unowned) => {
            let unowned = counted(unowned.into(), "shard has", "shards have");
            format!("Workers: {}, {unowned} no holder", counted(members, "process", "processes"))
        }
    };
    let lines = [vec![outbox(&overview.outbox)], pauses(&overview.outbox), vec![workers], breakers(&overview.members)];
    format!("{}\n\n{}", kinds(&overview.kinds), lines.concat().join("\n"))
}

fn kinds(kinds: &[KindOverview]) -> String {
    let mut grid = Grid::new(&[
        short("kind"),
        number("waiting"),
        short("oldest"),
        number("timers").if_any(),
        short("next due").if_any(),
        number("failing").if_any(),
        number("paused").if_any(),
        number("quarantined").if_any(),
        number("workers"),
        long("remarks").if_any(),
    ]);
    for kind in kinds {
        let mut remarks = Vec::new();
        if kind.is_paused {
            remarks.push("paused");
        }
        if kind.is_throttled {
            remarks.push("throttled by the outbox");
        }
        if kind.workers == 0 && kind.waiting.number > 0 {
            remarks.push("no worker knows it");
        }
        remarks.extend(kind.trouble.as_deref());
        grid.row([
            text(&kind.kind),
            text(kind.waiting.to_string()),
            text(relative_or_none(kind.oldest_at)),
            text(kind.timers.to_string()),
            text(relative_or_none(kind.next_due_at)),
            cell(kind.failing.to_string(), Tone::when(kind.failing.number > 0, Tone::Bad)),
            cell(kind.paused.to_string(), Tone::when(kind.paused.number > 0, Tone::Warning)),
            cell(kind.quarantined.to_string(), Tone::when(kind.quarantined.number > 0, Tone::Warning)),
            text(kind.workers.to_string()),
            cell(remarks.join(", "), Tone::Warning),
        ]);
    }
    grid.or("No recipient has events, timers or failures.")
}

fn pauses(outbox: &OutboxOverview) -> Vec<String> {
    let line = |paused| format!("  {}", paused_line(paused));
    outbox.paused_destinations.iter().map(line).collect()
}

fn breakers(members: &[Member]) -> Vec<String> {
    let mut lines = Vec::new();
    for member in members {
        for breaker in &member.breakers {
            lines.push(format!("  {}", plain(&format!("{} {}", member.address, breaker_words(breaker)))));
        }
    }
    lines
}

fn outbox(outbox: &OutboxOverview) -> String {
    let oldest = outbox.oldest_at.map(|at| format!(", the oldest {}", relative(at))).unwrap_or_default();
    let paused = match outbox.paused.number {
        0 => String::new(),
        _ => format!(", {} paused", outbox.paused),
    };
    format!(
        "Outbox: {} waiting{oldest}{paused}, {} sent more than once, {} dead",
        outbox.waiting, outbox.struggling, outbox.dead_letters
    )
}
