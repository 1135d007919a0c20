//! `eventbox audit`: whether every event of a kind has exactly one fate.

use anyhow::Result;
use eventbox::admin::{self, Audit, AuditedEvent};

use crate::operate::connect::on;
use crate::operate::print::table::Facts;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Checks that every event of a kind is in exactly one place
///
/// It reads the eventboxes, timers, quarantine and journal of a kind that keeps a journal. The exit code is 1 when an
/// event is in two places.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox audit order
  eventbox audit order --json | jq .twice")]
pub(crate) struct AuditArgs {
    /// Kind of the recipients
    kind: String,
}

impl Run for AuditArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let audit = on!(&session.database, pool => admin::audit_kind(pool, &self.kind).await)?;
        session.output().show(&audit, || lines(&audit))?;
        Ok(if audit.is_conserved() { Answer::Yes } else { Answer::No })
    }
}

fn lines(audit: &Audit) -> String {
    let mut facts = Facts::new();
    for (label, number) in [
        ("events", audit.events()),
        ("waiting", audit.waiting),
        ("timers", audit.timers),
        ("quarantined", audit.quarantined),
        ("consumed", audit.consumed),
        ("garbage", audit.garbage),
        ("purged", audit.purged),
        ("unknown", audit.unknown),
        ("in two places", audit.twice),
    ] {
        facts.add(label, number.to_string());
    }
    let named = |event: &AuditedEvent| format!("{} {}: {:?}", event.recipient, event.id.as_uuid(), event.places);
    let wrong: Vec<String> = audit.twice_events.iter().chain(&audit.unknown_events).map(named).collect();
    let verdict = if audit.is_conserved() { "Every event is in exactly one place." } else { "Events are wrong:" };
    format!("{}\n{verdict}\n{}", facts.lines(), wrong.join("\n")).trim_end().to_owned()
}
