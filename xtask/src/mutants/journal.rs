//! What earlier runs have found, in files below `target/mutants`: one JSON document a line.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What became of a mutant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// A test failed.
    Caught,
    /// A test hung.
    TimedOut,
    /// No test failed.
    Survived,
    /// No test runs the code.
    NotReached,
}

impl Outcome {
    /// Returns whether no test noticed the mutant.
    pub(super) fn is_survival(self) -> bool {
        matches!(self, Outcome::Survived | Outcome::NotReached)
    }
}

/// The result of a mutant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Found {
    /// Digest of the source.
    pub(super) source: u64,
    /// Digest of the tests.
    pub(super) tests: u64,
    pub(super) mutant: String,
    pub(super) outcome: Outcome,
    /// The test that noticed the mutant.
    pub(super) by: Option<String>,
    pub(super) seconds: f64,
}

impl Found {
    /// Returns whether the result still says something. A new test may notice what others have not.
    fn is_current(&self, source: u64, tests: u64) -> bool {
        self.source == source && (self.tests == tests || !self.outcome.is_survival())
    }
}

/// Reads a file of documents. The last line may be cut, where a run was killed.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Opens a file to add documents to it.
pub(super) fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("open {}", path.display()))
}

/// Adds a document.
pub(super) fn add(file: &mut File, document: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(document)? + "\n";
    file.write_all(line.as_bytes()).context("write what was found")
}

/// Returns the results that still say something, by mutant.
pub(super) fn current(all: Vec<Found>, source: u64, tests: u64) -> BTreeMap<String, Found> {
    let current = all.into_iter().filter(|found| found.is_current(source, tests));
    current.map(|found| (found.mutant.clone(), found)).collect()
}

#[cfg(test)]
mod checks {
    use super::*;

    fn found(mutant: &str, outcome: Outcome) -> Found {
        Found { source: 1, tests: 2, mutant: mutant.into(), outcome, by: None, seconds: 0.5 }
    }

    #[test]
    fn results_are_read_up_to_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let mut file = open(&path).unwrap();
        add(&mut file, &found("a", Outcome::Caught)).unwrap();
        add(&mut file, &found("b", Outcome::NotReached)).unwrap();
        file.write_all(b"{\"source\": 1, \"te").unwrap();
        let read = read::<Found>(&path);
        assert_eq!(read.iter().map(|found| found.outcome).collect::<Vec<_>>(), [Outcome::Caught, Outcome::NotReached]);
    }

    #[test]
    fn new_tests_are_tried_on_survivors_and_new_code_on_all() {
        let all = || vec![found("a", Outcome::Caught), found("b", Outcome::Survived), found("c", Outcome::TimedOut)];
        let names = |source, tests| current(all(), source, tests).into_keys().collect::<String>();
        assert_eq!(names(1, 2), "abc");
        assert_eq!(names(1, 3), "ac");
        assert_eq!(names(4, 2), "");
    }
}
