//! Puts all mutants of a file into its text, each behind a switch that is read at run time.
//!
//! A change stands beside the code that it changes: `a < b` becomes an expression that computes `a` and `b` once, and
//! compares them as the switch says. The lines stay what they are, so that places in messages stay right.

mod forms;
mod visit;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use syn::visit::Visit as _;

use self::visit::Rewriter;
use super::list::{Genre, Mutant};

/// A file with its mutants.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    pub(super) text: String,
    /// Mutants that the text contains.
    pub(super) numbers: BTreeSet<u32>,
    /// Mutants that no compiler accepts, as the grammar tells.
    pub(super) wrong: BTreeSet<u32>,
    marks: Vec<Mark>,
}

/// A piece of the text that belongs to mutants.
#[derive(Debug)]
struct Mark {
    range: Range<usize>,
    numbers: Vec<u32>,
    /// Whether the piece is the change itself, and not what stands around it.
    is_change: bool,
}

/// Why a mutant cannot be tested.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Obstacle {
    /// The compiler refuses the change.
    DoesNotCompile,
    /// The change cannot stand beside the code that it changes.
    NotExpressible,
}

impl Rewritten {
    /// Returns the mutants that an error at these bytes of the text is about.
    pub(super) fn blamed(&self, bytes: &Range<usize>) -> Option<(Obstacle, Vec<u32>)> {
        let around = |mark: &&Mark| mark.range.start <= bytes.start && bytes.end <= mark.range.end;
        let smallest = |is_change: bool| {
            let marks = self.marks.iter().filter(|mark| mark.is_change == is_change).filter(around);
            marks.min_by_key(|mark| mark.range.len()).map(|mark| mark.numbers.clone())
        };
        let change = smallest(true).map(|numbers| (Obstacle::DoesNotCompile, numbers));
        change.or_else(|| smallest(false).map(|numbers| (Obstacle::NotExpressible, numbers)))
    }
}

/// Where the mutants of a file are: the byte at which the changed text begins, and the kind of the change.
type Sites<'a> = BTreeMap<(usize, Genre), Vec<&'a Mutant>>;

/// Puts mutants into the text of their file.
pub(super) fn rewrite(source: &str, mutants: &[&Mutant]) -> Result<Rewritten> {
    let file = syn::parse_file(source).context("parse the file")?;
    let mut sites = Sites::new();
    for &mutant in mutants {
        let start = offset(source, mutant).with_context(|| format!("{} is at no place of the file", mutant.name))?;
        sites.entry((start, mutant.genre)).or_default().push(mutant);
    }
    let mut rewriter = Rewriter::new(source, sites);
    rewriter.visit_file(&file);
    let rewritten = rewriter.finish();
    ensure!(syn::parse_file(&rewritten.text).is_ok(), "the file with its mutants does not parse");
    Ok(rewritten)
}

/// Returns the byte at which the changed text begins.
fn offset(source: &str, mutant: &Mutant) -> Option<usize> {
    let place = mutant.span.start;
    let line = source.split_inclusive('\n').nth(place.line.checked_sub(1)?)?;
    let column = line.char_indices().nth(place.column.checked_sub(1)?)?.0;
    Some(line.as_ptr() as usize - source.as_ptr() as usize + column)
}

#[cfg(test)]
mod tests;
