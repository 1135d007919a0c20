//! The figures of a folder.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::journal::{Found, Outcome};
use super::rewrite::Obstacle;

/// What became of the mutants of a folder.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) folder: String,
    /// All mutants of the folder.
    pub(super) mutants: usize,
    pub(super) does_not_compile: usize,
    pub(super) not_expressible: usize,
    /// Mutants that this run or an earlier one has tried.
    pub(super) tried: usize,
    pub(super) caught: usize,
    pub(super) timed_out: usize,
    pub(super) survived: usize,
    pub(super) survived_known: usize,
    /// Survivors that the list does not have, with their places.
    pub(super) new: Vec<String>,
    /// Mutants of the list that tests notice.
    pub(super) noticed_again: Vec<String>,
    /// Mutants of the list that do not exist any more.
    pub(super) gone: Vec<String>,
}

impl Figures {
    pub(super) fn new(folder: &str, mutants: usize) -> Self {
        Figures { folder: folder.to_owned(), mutants, ..Figures::default() }
    }

    pub(super) fn count_obstacle(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::DoesNotCompile => self.does_not_compile += 1,
            Obstacle::NotExpressible => self.not_expressible += 1,
        }
    }

    pub(super) fn count(&mut self, found: &Found, place: &str, known: &BTreeSet<String>) {
        self.tried += 1;
        match found.outcome {
            Outcome::Caught => self.caught += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Survived | Outcome::NotReached => self.survived += 1,
        }
        match (found.outcome.is_survival(), known.contains(&found.mutant)) {
            (true, true) => self.survived_known += 1,
            (true, false) => {
                let why = if found.outcome == Outcome::NotReached { " (no test runs it)" } else { "" };
                self.new.push(format!("{place}: {}{why}", found.mutant));
            }
            (false, true) => self.noticed_again.push(found.mutant.clone()),
            (false, false) => {}
        }
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} mutants, {} do not compile, {} are not expressible; of {} that were tried {} were caught, {} timed \
             out, {} survived ({} of them known)",
            self.folder,
            self.mutants,
            self.does_not_compile,
            self.not_expressible,
            self.tried,
            self.caught,
            self.timed_out,
            self.survived,
            self.survived_known
        )?;
        for mutant in &self.new {
            writeln!(f, "    new: {mutant}")?;
        }
        for mutant in &self.noticed_again {
            writeln!(f, "    listed, and does not survive: {mutant}")?;
        }
        for mutant in &self.gone {
            writeln!(f, "    listed, and there is no such mutant: {mutant}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn a_survivor_is_known_or_new() {
        let mut figures = Figures::new("round", 9);
        figures.count_obstacle(Obstacle::DoesNotCompile);
        figures.count_obstacle(Obstacle::NotExpressible);
        let known = ["a".to_owned(), "b".to_owned()].into();
        for (mutant, outcome) in [
            ("a", Outcome::Survived),
            ("b", Outcome::Caught),
            ("c", Outcome::Survived),
            ("d", Outcome::NotReached),
            ("e", Outcome::TimedOut),
        ] {
            let found = Found { source: 0, tests: 0, mutant: mutant.into(), outcome, by: None, seconds: 0.0 };
            figures.count(&found, "src/x.rs:1", &known);
        }
        figures.gone.push("f".to_owned());
        assert_eq!(
            figures.to_string(),
            "round: 9 mutants, 1 do not compile, 1 are not expressible; of 5 that were tried 1 were caught, 1 timed \
             out, 3 survived (1 of them known)\n    new: src/x.rs:1: c\n    new: src/x.rs:1: d (no test runs it)\n    \
             listed, and does not survive: b\n    listed, and there is no such mutant: f\n"
        );
    }
}
