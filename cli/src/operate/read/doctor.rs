//! `eventbox doctor`: checks the database and its workers.

use anyhow::Result;
use eventbox::admin::{self, DoctorOptions, Finding, Severity};

use crate::operate::connect::on;
use crate::operate::print::table::{Grid, Tone, cell, long, short, text};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Checks versions, migrations, settings, clocks, leases and ages, and says what to do
///
/// The exit code is 1 when a finding is an error. Warnings and notes do not change it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox doctor
  eventbox doctor --integrity                            SQLite: read and check the whole file
  eventbox doctor --json | jq '.[] | select(.severity == \"error\")'

Exit codes: 0 no error found, 1 an error found, 2 the database cannot be reached, 130 interrupted.")]
pub(crate) struct DoctorArgs {
    /// Check the integrity of an SQLite file, which reads all of it
    #[arg(long)]
    integrity: bool,
}

impl Run for DoctorArgs {
    // Missing tables are a finding.
    const NEEDS_TABLES: bool = false;

    async fn run(self, session: &Session) -> Result<Answer> {
        let options = DoctorOptions::default().with_integrity(self.integrity);
        let findings = on!(&session.database, pool => admin::doctor(pool, &options).await)?;
        session.output().show(&findings, || list(&findings))?;
        let is_wrong = findings.iter().any(|finding| matches!(finding.severity, Severity::Error));
        Ok(if is_wrong { Answer::No } else { Answer::Yes })
    }
}

fn list(findings: &[Finding]) -> String {
    let mut grid = Grid::new(&[short(""), short("check"), long("finding"), long("what to do").if_any()]);
    for finding in findings {
        let (word, tone) = match finding.severity {
            Severity::Error => ("error", Tone::Bad),
            Severity::Warning => ("warning", Tone::Warning),
            Severity::Note => ("note", Tone::Note),
            _ => ("ok", Tone::Good),
        };
        let advice = finding.advice.as_deref().unwrap_or_default();
        grid.row([cell(word, tone), text(finding.check), text(&finding.sentence), text(advice)]);
    }
    grid.or("There is nothing to check.")
}
