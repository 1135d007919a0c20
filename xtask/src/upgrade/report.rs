//! The results of a run on one engine.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use super::oracle::Verdict;

/// What happened in a phase.
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) seconds: f64,
    /// Processes that were killed with SIGKILL.
    pub(super) killed: usize,
    /// Processes that were asked to stop.
    pub(super) stopped: usize,
    /// Events that were acknowledged in the phase.
    pub(super) acknowledged: usize,
    /// Events that were applied in the phase.
    pub(super) applied: usize,
}

/// The results of a run.
pub(super) struct Report {
    pub(super) engine: &'static str,
    pub(super) old: String,
    pub(super) new: String,
    pub(super) seed: u64,
    pub(super) phases: Vec<Phase>,
    /// Old workers that did not start again after the migration.
    pub(super) refused: usize,
    pub(super) verdict: Verdict,
    pub(super) problems: Vec<String>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let phase = |phase: &Phase| {
            json!({
                "name": phase.name, "seconds": phase.seconds, "killed": phase.killed, "stopped": phase.stopped,
                "acknowledged": phase.acknowledged, "applied": phase.applied,
            })
        };
        json!({
            "engine": self.engine, "old": self.old, "new": self.new, "seed": self.seed,
            "phases": self.phases.iter().map(phase).collect::<Vec<_>>(),
            "old_workers_refused": self.refused, "counts": self.verdict.json(), "problems": self.problems,
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verdict = if self.problems.is_empty() { "ok" } else { "FAILED" };
        let old = self.old.get(..12).unwrap_or(&self.old);
        writeln!(f, "{verdict} {}: {old} and {}, seed {}", self.engine, self.new, self.seed)?;
        writeln!(
            f,
            "  {:42} {:>7} {:>6} {:>7} {:>12} {:>8}",
            "", "seconds", "killed", "stopped", "acknowledged", "applied"
        )?;
        for phase in &self.phases {
            writeln!(
                f,
                "  {:42} {:>7.0} {:>6} {:>7} {:>12} {:>8}",
                phase.name, phase.seconds, phase.killed, phase.stopped, phase.acknowledged, phase.applied
            )?;
        }
        write!(f, "  {}", self.verdict.line())?;
        if self.refused > 0 {
            write!(f, "\n  {} old workers were refused by the new tables, as docs/operating.md says", self.refused)?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  problem: {problem}"))
    }
}
