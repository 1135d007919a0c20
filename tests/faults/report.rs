//! The results of a program.

use std::fmt;

use serde::Serialize;

/// A result whose error says why a program could not run.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The counts of one case of a program.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) case: String,
    /// Events whose emit succeeded.
    pub(crate) acknowledged: usize,
    /// Distinct events in the states.
    pub(crate) applied: usize,
    /// Acknowledged events that are in no state.
    pub(crate) lost: usize,
    /// Events that are in a state more than once.
    pub(crate) twice: usize,
    /// Distinct messages that arrived.
    pub(crate) delivered: usize,
    /// Messages that arrived although their turn did not commit.
    pub(crate) of_no_turn: usize,
    /// Messages of committed turns that did not arrive.
    pub(crate) undelivered: usize,
    /// Seconds from the end of each fault until new events were emitted and applied.
    pub(crate) back_at_work_s: Vec<f64>,
    pub(crate) notes: Vec<String>,
    pub(crate) problems: Vec<String>,
}

impl Report {
    pub(crate) fn new(case: impl Into<String>) -> Self {
        Report { case: case.into(), ..Report::default() }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        eprintln!("faults:   {}: {note}", self.case);
        self.notes.push(note);
    }

    pub(crate) fn wants(&mut self, holds: bool, problem: impl Into<String>) {
        if !holds {
            self.problems.push(problem.into());
        }
    }

    /// Checks the promises that hold after every fault.
    pub(crate) fn judge(&mut self) {
        self.wants(self.acknowledged > 0, "nothing was acknowledged, so nothing was tested");
        self.wants(self.lost == 0, format!("{} acknowledged events are lost", self.lost));
        self.wants(self.twice == 0, format!("{} events were applied twice", self.twice));
        self.wants(self.of_no_turn == 0, format!("{} messages are of turns that never happened", self.of_no_turn));
        self.wants(self.undelivered == 0, format!("{} messages did not arrive", self.undelivered));
    }

    /// Records the recovery time, and a problem if it is over 15 s.
    pub(crate) fn back_at_work(&mut self, seconds: f64) {
        self.note(format!("back at work after {seconds:.1} s"));
        self.back_at_work_s.push(seconds);
        self.wants(seconds <= 15.0, format!("back at work only after {seconds:.1} s"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.problems.is_empty() { "ok" } else { "FAILED" };
        write!(
            f,
            "{verdict:6} {}: acknowledged {}, applied {}, lost {}, twice {}, \
             delivered {}, of no turn {}, undelivered {}",
            self.case,
            self.acknowledged,
            self.applied,
            self.lost,
            self.twice,
            self.delivered,
            self.of_no_turn,
            self.undelivered
        )?;
        for seconds in &self.back_at_work_s {
            write!(f, "; back at work after {seconds:.1} s")?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n         problem: {problem}"))
    }
}
