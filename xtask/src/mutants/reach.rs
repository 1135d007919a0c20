//! Which tests ask for the switch of a mutant. A test that does not cannot notice the mutant.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::journal;
use super::tests::{self, Ending, Run, Stage, Test};
use super::tree::Tree;

/// Time after which a test without a mutant is killed.
const BOUND: Duration = Duration::from_secs(300);

/// Attempts to see a test pass. A busy machine makes a test fail now and then.
const ATTEMPTS: usize = 3;

/// What a test did without a mutant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reached {
    /// Digest of the source, the helpers of the tests and the file of the test.
    key: u64,
    test: String,
    pub(super) seconds: f64,
    /// The switches that it asked for.
    numbers: Vec<u32>,
}

/// What all tests did without a mutant.
pub(super) struct Reach {
    by_test: BTreeMap<String, Reached>,
}

impl Reach {
    /// Runs the tests that have not run since they or the code changed. Each must pass.
    pub(super) fn of(tests: &[Test], stage: &Stage, tree: &Tree, source: u64, folder: &Path) -> Result<Self> {
        let path = folder.join("reach.jsonl");
        let mut by_test: BTreeMap<_, _> =
            journal::read::<Reached>(&path).into_iter().map(|reached| (reached.test.clone(), reached)).collect();
        let mut file = journal::open(&path)?;
        let helpers = tree.digest(|name| name.starts_with("tests/suite/support/"));
        let known = |test: &Test| {
            by_test.get(&test.id()).is_some_and(|reached| reached.key == key(tree, (source, helpers), test))
        };
        let mut left: Vec<_> = tests.iter().filter(|test| !known(test)).collect();
        for attempt in 0..ATTEMPTS {
            if left.is_empty() {
                break;
            }
            eprintln!("xtask: {} tests run without a mutant", left.len());
            // A test that failed among others may pass alone.
            let width = if attempt == 0 { stage.width } else { 1 };
            let (passed, failed) = run(&left, &Stage { width, ..stage.clone() }, folder)?;
            for (test, seconds, numbers) in passed {
                let reached = Reached { key: key(tree, (source, helpers), test), test: test.id(), seconds, numbers };
                journal::add(&mut file, &reached)?;
                by_test.insert(test.id(), reached);
            }
            left = failed;
        }
        if !left.is_empty() {
            let names: Vec<_> = left.iter().map(|test| test.id()).collect();
            bail!("these tests fail without a mutant: {}", names.join(", "));
        }
        Ok(Reach { by_test })
    }

    /// Returns whether a test asks for the switch of a mutant.
    pub(super) fn has(&self, test: &Test, mutant: u32) -> bool {
        self.by_test.get(&test.id()).is_some_and(|reached| reached.numbers.binary_search(&mutant).is_ok())
    }

    /// Returns the time that a test took.
    pub(super) fn seconds(&self, test: &Test) -> f64 {
        self.by_test.get(&test.id()).map_or(0.0, |reached| reached.seconds)
    }
}

type Passed<'a> = Vec<(&'a Test, f64, Vec<u32>)>;

/// Runs tests without a mutant, and returns what those asked for that passed, and those that failed.
fn run<'a>(tests: &[&'a Test], stage: &Stage, folder: &Path) -> Result<(Passed<'a>, Vec<&'a Test>)> {
    let seen = tempfile::Builder::new().prefix("seen-").tempdir_in(folder).context("create a folder")?;
    let mut runs = Vec::new();
    for (index, &test) in tests.iter().enumerate() {
        let own = seen.path().join(index.to_string());
        fs::create_dir(&own)?;
        runs.push(Run { test, bound: BOUND, mutant: None, seen: Some(own) });
    }
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    stage.run(&runs, |index, ending, took| {
        if let Some(Run { test, seen: Some(own), .. }) = runs.get(index) {
            match ending {
                Ending::Passed => passed.push((*test, took.as_secs_f64(), tests::seen(own)?)),
                _ => failed.push(*test),
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((passed, failed))
}

/// Returns a number that changes with the code that a test runs: the code for all tests, and its file.
fn key(tree: &Tree, common: (u64, u64), test: &Test) -> u64 {
    let file = file_of(test, |name| tree.has(name));
    let mut hasher = DefaultHasher::new();
    (common, tree.digest(|name| Some(name) == file.as_deref())).hash(&mut hasher);
    hasher.finish()
}

/// Returns the file of a test of the suite: the longest beginning of its name that is a file.
fn file_of(test: &Test, is_there: impl Fn(&str) -> bool) -> Option<String> {
    if test.program == "lib" {
        return None;
    }
    let mut path = test.name.replace("::", "/");
    loop {
        let names = [format!("tests/suite/{path}.rs"), format!("tests/suite/{path}/mod.rs")];
        if let Some(name) = names.into_iter().find(|name| is_there(name)) {
            return Some(name);
        }
        path.truncate(path.rfind('/')?);
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn the_file_of_a_test_is_in_its_name() {
        let test = |name: &str| Test::new("suite", name);
        let is_there = |name: &str| ["tests/suite/runtime/hooks/mod.rs", "tests/suite/dsset/cases.rs"].contains(&name);
        let file = |name: &str| file_of(&test(name), is_there);
        assert_eq!(file("dsset::cases::a::sqlite").as_deref(), Some("tests/suite/dsset/cases.rs"));
        assert_eq!(file("runtime::hooks::a::sqlite").as_deref(), Some("tests/suite/runtime/hooks/mod.rs"));
        assert_eq!(file("elsewhere::a"), None);
        assert_eq!(file_of(&Test::new("lib", "dsset::cases::a"), is_there), None);
    }
}
