//! Compiles the copy: leaves out the mutants that the compiler refuses, and builds the tests once for all others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folders::root;
use super::journal;
use super::list::Mutant;
use super::rewrite::Obstacle;
use super::tree::Tree;
use crate::run::{interrupted, words_of};

/// Most rounds of the compiler. Each finds the errors that those of the round before have hidden.
const MOST_ROUNDS: usize = 30;

/// Errors to show when no mutant is to blame for any of them.
const SHOWN_ERRORS: usize = 5;

/// A program with tests.
pub(super) struct Program {
    /// `lib`, `suite` or `around`.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// Returns the folder in which cargo builds the copy.
fn target() -> PathBuf {
    // A folder of its own: another build of the package would replace the tests that have the switches.
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("mutants/target")
}

/// What the compiler has refused in earlier runs, which is asked once.
pub(super) struct Known {
    path: PathBuf,
    /// Digest of the code.
    source: u64,
}

/// A mutant that the compiler refused.
#[derive(Serialize, Deserialize)]
struct Refused {
    source: u64,
    mutant: String,
    obstacle: Obstacle,
}

impl Known {
    pub(super) fn new(folder: &Path, source: u64) -> Self {
        Known { path: folder.join("refused.jsonl"), source }
    }

    fn read(&self, mutants: &[Mutant]) -> BTreeMap<u32, Obstacle> {
        let refused = journal::read::<Refused>(&self.path).into_iter().filter(|refused| refused.source == self.source);
        let by_name: BTreeMap<_, _> = refused.map(|refused| (refused.mutant, refused.obstacle)).collect();
        let number = |mutant: &Mutant| Some((mutant.number, *by_name.get(&mutant.name)?));
        mutants.iter().filter_map(number).collect()
    }

    fn add(&self, mutants: &[Mutant], found: &BTreeMap<u32, Obstacle>) -> Result<()> {
        let mut file = journal::open(&self.path)?;
        for mutant in mutants {
            if let Some(&obstacle) = found.get(&mutant.number) {
                let refused = Refused { source: self.source, mutant: mutant.name.clone(), obstacle };
                journal::add(&mut file, &refused)?;
            }
        }
        Ok(())
    }
}

/// Returns the command that builds the unit tests and halves of the suite in the copy.
fn cargo_in(folder: &Path, halves: &BTreeSet<&str>) -> Command {
    let mut command = crate::run::cargo(["test", "--no-run", "--lib"]);
    command.args(halves.iter().map(|half| format!("--test={half}")));
    command.args(["--package=eventbox", "--all-features", "--message-format=json"]).current_dir(folder);
    command.env("CARGO_TARGET_DIR", target()).stderr(Stdio::inherit());
    // No debug information: the backtraces of mutants are not read, and it takes half of the build time.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    command
}

/// Runs cargo, and returns whether it succeeded, and its messages.
fn messages(command: &mut Command) -> Result<(bool, Vec<Value>)> {
    eprintln!("xtask: {}", words_of(command));
    let output = command.output().with_context(|| format!("start {}", words_of(command)))?;
    ensure!(!interrupted(), "interrupted");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok((output.status.success(), messages))
}

/// Writes and builds the copy again and again, without the mutants that the compiler refuses, until its tests are
/// built.
///
/// A build that fails costs no more than a check: the compiler stops before it generates code.
pub(super) fn build(
    tree: &mut Tree,
    mutants: &[Mutant],
    halves: &BTreeSet<&str>,
    known: &Known,
) -> Result<Vec<Program>> {
    tree.obstacles.extend(known.read(mutants));
    for _ in 0..MOST_ROUNDS {
        tree.write(mutants)?;
        let (is_ok, messages) = messages(&mut cargo_in(&tree.folder, halves))?;
        if is_ok {
            let programs: Vec<_> = messages.iter().filter_map(program).collect();
            ensure!(programs.len() == 1 + halves.len(), "cargo built {} programs with tests", programs.len());
            return Ok(programs);
        }
        let before = tree.obstacles.len();
        let mut found = BTreeMap::new();
        let errors: Vec<_> = messages.iter().filter_map(error).collect();
        for error in &errors {
            if let Some((obstacle, numbers)) = blamed(tree, error) {
                found.extend(numbers.into_iter().map(|number| (number, obstacle)));
            }
        }
        known.add(mutants, &found)?;
        tree.obstacles.extend(found);
        let found = tree.obstacles.len() - before;
        eprintln!("xtask: {} errors, because of {found} mutants", errors.len());
        if found == 0 {
            let texts = errors.iter().take(SHOWN_ERRORS).filter_map(|error| error.get("rendered")?.as_str());
            bail!("no mutant is to blame for these errors:\n{}", texts.collect::<String>());
        }
    }
    bail!("the copy does not compile after {MOST_ROUNDS} rounds");
}

/// Returns the error in a message of cargo.
fn error(message: &Value) -> Option<&Value> {
    let message = message.get("message")?;
    (message.get("level")?.as_str()? == "error").then_some(message)
}

/// Returns the mutants that an error is about: a change before what stands around one, and the place of the error
/// before those of its explanations.
fn blamed(tree: &Tree, error: &Value) -> Option<(Obstacle, Vec<u32>)> {
    let mut spans = spans(error, true);
    spans.extend(spans_of_all(error));
    let hits = spans.iter().enumerate().filter_map(|(index, (file, bytes))| {
        let (obstacle, numbers) = tree.rewritten.get(file)?.blamed(bytes)?;
        let is_first = index == 0;
        Some(((!is_first, obstacle), numbers))
    });
    hits.min_by_key(|(rank, _)| *rank).map(|((_, obstacle), numbers)| (obstacle, numbers))
}

/// Returns all places of an error and of its explanations.
fn spans_of_all(error: &Value) -> Vec<(String, Range<usize>)> {
    let mut all = spans(error, false);
    for child in error.get("children").and_then(Value::as_array).into_iter().flatten() {
        all.extend(spans(child, false));
    }
    all
}

/// Returns the places of a message, the main ones or all, with those of the macros around them.
fn spans(message: &Value, main: bool) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    for span in message.get("spans").and_then(Value::as_array).into_iter().flatten() {
        if main && span.get("is_primary").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let mut span = Some(span);
        while let Some(inner) = span {
            found.extend(place(inner));
            span = inner.get("expansion").and_then(|expansion| expansion.get("span"));
        }
    }
    found
}

fn place(span: &Value) -> Option<(String, Range<usize>)> {
    let byte = |name| usize::try_from(span.get(name)?.as_u64()?).ok();
    Some((span.get("file_name")?.as_str()?.to_owned(), byte("byte_start")?..byte("byte_end")?))
}

/// Returns the program that a message of cargo is about.
fn program(message: &Value) -> Option<Program> {
    let path = message.get("executable")?.as_str()?.into();
    let target = message.get("target")?;
    let is_library = target.get("kind")?.as_array()?.iter().any(|kind| kind.as_str() == Some("lib"));
    let name = if is_library { "lib" } else { target.get("name")?.as_str()? };
    Some(Program { name: name.to_owned(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_an_error_come_with_those_of_macros() {
        let error: Value = serde_json::from_str(
            r#"{"level": "error", "spans": [
                {"file_name": "a.rs", "byte_start": 1, "byte_end": 2, "is_primary": false},
                {"file_name": "m.rs", "byte_start": 3, "byte_end": 4, "is_primary": true,
                 "expansion": {"span": {"file_name": "a.rs", "byte_start": 5, "byte_end": 6}}}],
                "children": [{"spans": [{"file_name": "c.rs", "byte_start": 7, "byte_end": 8, "is_primary": true}]}]}"#,
        )
        .unwrap();
        assert_eq!(spans(&error, true), [("m.rs".to_owned(), 3..4), ("a.rs".to_owned(), 5..6)]);
        assert_eq!(spans_of_all(&error).last(), Some(&("c.rs".to_owned(), 7..8)));
    }

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let named =
            |kind: &str| serde_json::json!({"executable": "/t/a-1", "target": {"kind": [kind], "name": "suite"}});
        assert_eq!(program(&named("test")).unwrap().name, "suite");
        assert_eq!(program(&named("lib")).unwrap().name, "lib");
        assert!(program(&serde_json::json!({"executable": null})).is_none());
    }
}
