//! The list of mutants, as `cargo mutants --list --json` prints it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::folders::FOLDERS;
use crate::run::{cargo, words_of};

/// What a mutant changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub(super) enum Genre {
    /// A body becomes a fixed value.
    FnValue,
    BinaryOperator,
    /// An operator in front of a value is deleted.
    UnaryOperator,
    /// An arm of a `match` is deleted, so that its values reach the arm `_`.
    MatchArm,
    /// A guard of an arm becomes `true` or `false`.
    MatchArmGuard,
    /// A field is deleted from an expression that ends with `..base`.
    StructField,
}

/// A place in a file. Lines and columns begin with 1, and columns count characters.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// The text that a mutant changes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Span {
    pub(super) start: Place,
}

/// The function around a mutant.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Function {
    /// `-> Type`, or nothing.
    pub(super) return_type: String,
}

/// A small change of the code.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Mutant {
    /// The number of its switch, from 1 on.
    #[serde(skip)]
    pub(super) number: u32,
    pub(super) file: String,
    /// `file: change`, with `#2` and so on when a file has the same change again. Without lines, because they change.
    pub(super) name: String,
    pub(super) function: Option<Function>,
    pub(super) genre: Genre,
    pub(super) replacement: String,
    pub(super) span: Span,
}

impl Mutant {
    /// A mutant of a file.
    #[cfg(test)]
    pub(super) fn at(file: &str, number: u32) -> Self {
        let span = Span { start: Place { line: 1, column: 1 } };
        let (file, name, replacement) = (file.to_owned(), number.to_string(), String::new());
        Mutant { number, file, name, function: None, genre: Genre::BinaryOperator, replacement, span }
    }

    /// Returns whether a folder of `src` contains the mutant.
    pub(super) fn is_in(&self, folder: &str) -> bool {
        self.file.starts_with(folder)
    }

    /// Returns `file:line`, where an editor finds it.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.span.start.line)
    }
}

/// Advice for the user when the program is missing.
const ADVICE: &str = "cargo-mutants is not installed: cargo install cargo-mutants --locked";

/// Asks cargo-mutants for the mutants of all folders.
pub(super) fn list() -> Result<Vec<Mutant>> {
    let mut command = cargo(["mutants", "--list", "--json", "--package=eventbox", "--colors=never"]);
    for folder in &FOLDERS {
        command.arg(format!("--file={}**", folder.files));
    }
    let output = command.output().context(ADVICE)?;
    let error = String::from_utf8_lossy(&output.stderr);
    let advice = if error.contains("no such command") { ADVICE } else { &error };
    anyhow::ensure!(output.status.success(), "{} ({}): {advice}", words_of(&command), output.status);
    numbered(&output.stdout)
}

/// Reads a list, numbers its mutants and makes their names unique.
fn numbered(json: &[u8]) -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = serde_json::from_slice(json).context("read the list of cargo mutants")?;
    let mut seen = BTreeMap::<String, u32>::new();
    for (mutant, number) in mutants.iter_mut().zip(1..) {
        mutant.number = number;
        mutant.name = without_place(&mutant.name);
        let times = seen.entry(mutant.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            mutant.name = format!("{} #{times}", mutant.name);
        }
    }
    Ok(mutants)
}

/// Returns `file: change` of `file:line:column: change`, in one line.
fn without_place(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    let name = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}:{what}"),
        _ => mutant.to_owned(),
    };
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_has_the_same_name_on_any_line() {
        let at = |line: u32| format!("src/a.rs:{line}:5: replace f -> Result<T, E> with Ok(a::b())");
        assert_eq!(without_place(&at(7)), "src/a.rs: replace f -> Result<T, E> with Ok(a::b())");
        assert_eq!(without_place(&at(7)), without_place(&at(8)));
        assert_eq!(without_place("no place"), "no place");
        assert_eq!(without_place("src/a.rs:1:2: delete match arm A |\n    B"), "src/a.rs: delete match arm A | B");
    }

    #[test]
    fn names_are_unique() {
        let one = |line: u32| {
            format!(
                r#"{{"file": "src/a.rs", "name": "src/a.rs:{line}:9: replace < with > in f", "package": "p",
                    "genre": "BinaryOperator", "replacement": ">", "function": null,
                    "span": {{"start": {{"line": {line}, "column": 9}}, "end": {{"line": {line}, "column": 10}}}}}}"#
            )
        };
        let read = numbered(format!("[{}, {}]", one(3), one(5)).as_bytes()).unwrap();
        let names: Vec<_> = read.iter().map(|mutant| (mutant.number, mutant.name.as_str())).collect();
        assert_eq!(names, [(1, "src/a.rs: replace < with > in f"), (2, "src/a.rs: replace < with > in f #2")]);
        assert_eq!(read[1].place(), "src/a.rs:5");
    }
}
