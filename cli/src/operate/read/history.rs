//! `eventbox history`: what became of the events of a recipient.

use anyhow::Result;
use eventbox::admin::{self, EventRef, Fate, JournalEntry, JournalOutcome};
use eventbox::{EventId, Recipient};

use crate::operate::args::{event_id, recipient};
use crate::operate::connect::on;
use crate::operate::print::table::{Grid, long, number, short, text};
use crate::operate::print::words::{NONE, origin, plain_lines, relative};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Shows the journal of a recipient, or what became of one event
///
/// The journal has entries only for kinds that keep one. The fate of an event that is still there is known for every
/// kind. The exit code is 1 when the fate of the event is unknown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox history order/7
  eventbox history order/7 --event 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b
  eventbox history order/7 --name click-1 --json | jq -r .fate")]
pub(crate) struct HistoryArgs {
    /// Recipient, as kind/key
    #[arg(value_parser = recipient)]
    recipient: Recipient,
    /// Say what became of this event
    #[arg(long, value_name = "ID", value_parser = event_id, conflicts_with = "name")]
    event: Option<EventId>,
    /// Say what became of the newest event of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Begin before this event, the last of the page before
    #[arg(long, value_name = "ID", value_parser = event_id)]
    before: Option<EventId>,
    /// Largest number of entries
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
}

impl Run for HistoryArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let event = self.event.map(EventRef::from).or_else(|| self.name.as_deref().map(EventRef::from));
        if let Some(event) = event {
            let fate = on!(&session.database, pool => admin::fate(pool, &self.recipient, &event).await)?;
            session.output().show(&fate, || plain_lines(&sentence(&fate)))?;
            return Ok(if matches!(fate, Fate::Unknown { .. }) { Answer::No } else { Answer::Yes });
        }
        let (before, limit) = (self.before, self.limit);
        let entries = on!(&session.database, pool => admin::history(pool, &self.recipient, before, limit).await)?;
        session.output().show(&entries, || list(&entries))?;
        Ok(Answer::Yes)
    }
}

fn list(entries: &[JournalEntry]) -> String {
    let mut grid = Grid::new(&[
        short("when"),
        number("turn"),
        short("outcome"),
        short("event"),
        short("name").if_any(),
        long("origin").if_any(),
    ]);
    for entry in entries {
        grid.row([
            text(relative(entry.at)),
            text(entry.turn.to_string()),
            text(word(entry.outcome)),
            text(entry.id.as_uuid().to_string()),
            text(entry.name.as_deref().unwrap_or(NONE)),
            text(origin(entry.origin.as_ref())),
        ]);
    }
    grid.or("The journal has no entry of this recipient. Only kinds that keep a journal have entries.")
}

fn word(outcome: JournalOutcome) -> &'static str {
    match outcome {
        JournalOutcome::Consumed => "consumed",
        JournalOutcome::Garbage => "garbage",
        JournalOutcome::Quarantined => "quarantined",
        JournalOutcome::Purged => "purged",
        _ => "other",
    }
}

fn sentence(fate: &Fate) -> String {
    match fate {
        Fate::Waiting { ahead } => format!("The event waits in its eventbox, behind {ahead} events."),
        Fate::Timer { due_at } => format!("The event is a timer, which is due {}.", relative(*due_at)),
        Fate::Consumed { turn, at } => format!("Turn {turn} consumed the event {}.", relative(*at)),
        Fate::Garbage { turn, at } => format!("Turn {turn} removed the event as garbage {}.", relative(*at)),
        Fate::Quarantined { code, reason, dead_letter } => {
            format!("The event is in quarantine: {code}, {reason}\nTo see it: eventbox dead show {dead_letter}")
        }
        Fate::Purged { at, .. } => format!("An operator deleted the event {}.", relative(*at)),
        Fate::Unknown { keeps_journal: false } => {
            "The event is not there, and its kind keeps no journal that could tell what became of it.".to_owned()
        }
        _ => "No table has the event. It was never emitted, or it left longer ago than the journal is kept.".to_owned(),
    }
}
