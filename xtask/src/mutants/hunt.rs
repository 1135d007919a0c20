//! Tries one mutant: which test notices it?

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;

use super::folders::Folder;
use super::journal::Outcome;
use super::list::Mutant;
use super::reach::Reach;
use super::tests::{Ending, Run, Stage, Test};

/// A test is given this time, in addition to a multiple of what it takes without a mutant.
const PATIENCE: Duration = Duration::from_secs(20);

/// A test with a mutant may take so many times as long as without.
const SLOWER: f64 = 6.0;

/// A test that has caught a mutant of the same file runs before those that take a tenth of its time.
const WEIGHT_OF_A_CATCH: f64 = 10.0;

/// The tests, and what is known about them.
pub(super) struct Hunt<'a> {
    tests: &'a [Test],
    reach: &'a Reach,
    stage: &'a Stage,
    /// Number of mutants that a test has caught in a file.
    catches: BTreeMap<(String, String), u32>,
}

impl<'a> Hunt<'a> {
    pub(super) fn new(tests: &'a [Test], reach: &'a Reach, stage: &'a Stage) -> Self {
        Hunt { tests, reach, stage, catches: BTreeMap::new() }
    }

    /// Returns the tests that can notice a mutant, those first that are quick or have caught its neighbours.
    fn candidates(&self, folder: &Folder, mutant: &Mutant) -> Vec<&'a Test> {
        let is_of_folder = |test: &&Test| test.program == "lib" || folder.wants(&test.name);
        let reaches = |test: &&Test| self.reach.has(test, mutant.number);
        let mut tests: Vec<_> = self.tests.iter().filter(is_of_folder).filter(reaches).collect();
        let catches = |test: &Test| self.catches.get(&(mutant.file.clone(), test.id())).copied().unwrap_or(0);
        let rank = |test: &&Test| self.reach.seconds(test) / if catches(test) > 0 { WEIGHT_OF_A_CATCH } else { 1.0 };
        tests.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then_with(|| Reverse(catches(a)).cmp(&Reverse(catches(b)))));
        tests
    }

    /// Finds the test that notices a mutant.
    pub(super) fn try_on(&mut self, folder: &Folder, mutant: &Mutant) -> Result<(Outcome, Option<String>)> {
        let mut left = self.candidates(folder, mutant);
        if left.is_empty() {
            return Ok((Outcome::NotReached, None));
        }
        loop {
            let Some((test, passed)) = self.first_to_fail(&left, mutant)? else {
                return Ok((Outcome::Survived, None));
            };
            if let Some(outcome) = self.confirmed(test, mutant)? {
                *self.catches.entry((mutant.file.clone(), test.id())).or_default() += 1;
                return Ok((outcome, Some(test.id())));
            }
            left.retain(|other| other.id() != test.id() && !passed.contains(&other.id()));
        }
    }

    /// Returns the first test that fails or hangs, and the names of those that have passed before.
    fn first_to_fail(&self, tests: &[&'a Test], mutant: &Mutant) -> Result<Option<(&'a Test, Vec<String>)>> {
        let run = |test: &&'a Test| Run { test, bound: self.bound(test), mutant: Some(mutant.number), seen: None };
        let runs: Vec<_> = tests.iter().map(run).collect();
        let (mut failed, mut passed) = (None, Vec::new());
        self.stage.run(&runs, |index, ending, _| {
            let test = tests.get(index).copied();
            if ending == Ending::Passed {
                passed.extend(test.map(Test::id));
                return Ok(ControlFlow::Continue(()));
            }
            failed = test;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(failed.map(|test| (test, passed)))
    }

    /// Returns how a test notices a mutant alone: it fails or hangs with the mutant, and passes without it.
    fn confirmed(&self, test: &Test, mutant: &Mutant) -> Result<Option<Outcome>> {
        let run = |mutant| Run { test, bound: self.bound(test), mutant, seen: None };
        let outcome = match self.stage.run_alone(run(Some(mutant.number)))? {
            Ending::Passed => return Ok(None),
            Ending::Failed => Outcome::Caught,
            Ending::TimedOut => Outcome::TimedOut,
        };
        Ok((self.stage.run_alone(run(None))? == Ending::Passed).then_some(outcome))
    }

    fn bound(&self, test: &Test) -> Duration {
        Duration::from_secs_f64(self.reach.seconds(test) * SLOWER) + PATIENCE
    }
}

#[cfg(test)]
mod checks {
    use super::super::folders::FOLDERS;
    use super::super::tests::checks::{program, stage};
    use super::super::tree::Tree;
    use super::*;

    /// A program whose tests ask for switches, as their names say, and fail for some.
    ///
    /// `flaky` fails the first time.
    const PROGRAM: &str = r#"
        number() { printf "\\$1\\000\\000\\000"; }
        if [ -n "$EVENTBOX_MUTANTS_SEEN" ]; then
            case "$2" in
                dsset::one) number 001;;
                dsset::two) number 001; number 002;;
                dsset::flaky) number 003;;
                unit) number 004;;
                elsewhere::five) number 005;;
            esac > "$EVENTBOX_MUTANTS_SEEN/$$"
        fi
        case "$2 $EVENTBOX_MUTANT" in
            "dsset::two 1" | "unit 4" | "elsewhere::five 5") exit 101;;
            "dsset::flaky 3") if [ -e flaky ]; then exit 0; fi; touch flaky; exit 101;;
        esac"#;

    #[test]
    fn a_mutant_is_caught_by_a_test_that_runs_it_and_fails_with_it_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = program(place.path(), PROGRAM).path;
        let named = [
            ("suite", "dsset::one"),
            ("suite", "dsset::two"),
            ("suite", "dsset::flaky"),
            ("lib", "unit"),
            ("suite", "elsewhere::five"),
        ];
        let tests = named.map(|(program, name)| Test::new(program, name).at(&path));
        let stage = stage(place.path());
        let tree = Tree::empty(place.path().to_owned());
        let reach = Reach::of(&tests, &stage, &tree, 1, place.path()).unwrap();
        let folder = FOLDERS.iter().find(|folder| folder.name == "dsset").unwrap();
        let mut hunt = Hunt::new(&tests, &reach, &stage);
        let mut found = |number| hunt.try_on(folder, &Mutant::at("src/dsset/a.rs", number)).unwrap();
        assert_eq!(found(1), (Outcome::Caught, Some("suite dsset::two".to_owned())));
        assert_eq!(found(2), (Outcome::Survived, None));
        assert_eq!(found(3), (Outcome::Survived, None), "it failed once, and not again");
        assert_eq!(found(4), (Outcome::Caught, Some("lib unit".to_owned())), "unit tests belong to every folder");
        assert_eq!(found(5), (Outcome::NotReached, None), "the test belongs to another folder");
        assert_eq!(found(6), (Outcome::NotReached, None));
    }
}
