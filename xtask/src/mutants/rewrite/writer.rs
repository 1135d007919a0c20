//! Writes a changed copy of a text, from its beginning to its end.

use super::forms::Piece;
use super::{Mark, Rewritten};

/// The place where a group of mutants begins in the written text.
#[derive(Clone, Copy)]
pub(super) struct Begin(usize);

/// A copy that is being written.
pub(super) struct Writer<'a> {
    source: &'a str,
    /// Byte of the source up to which it is copied.
    done: usize,
    rewritten: Rewritten,
}

impl<'a> Writer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Writer { source, done: 0, rewritten: Rewritten::default() }
    }

    /// Copies the source up to a byte.
    pub(super) fn copy_to(&mut self, byte: usize) {
        self.rewritten.text.push_str(self.source.get(self.done..byte).unwrap_or_default());
        self.done = self.done.max(byte);
    }

    /// Leaves out the source up to a byte, but for its line ends.
    pub(super) fn skip_to(&mut self, byte: usize) {
        let skipped = self.source.get(self.done..byte).unwrap_or_default();
        self.rewritten.text.extend(skipped.chars().filter(|c| *c == '\n'));
        self.done = self.done.max(byte);
    }

    /// Begins a group of mutants at the current place.
    pub(super) fn begin(&self) -> Begin {
        Begin(self.rewritten.text.len())
    }

    /// Writes text that is no change.
    pub(super) fn push(&mut self, text: &str) {
        self.rewritten.text.push_str(text);
    }

    /// Writes pieces, and remembers which are changes.
    pub(super) fn push_pieces(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            let start = self.rewritten.text.len();
            self.rewritten.text.push_str(&piece.text);
            if let Some(number) = piece.change {
                let range = start..self.rewritten.text.len();
                self.rewritten.marks.push(Mark { range, numbers: vec![number], is_change: true });
            }
        }
    }

    /// Ends a group of mutants.
    pub(super) fn end(&mut self, begin: Begin, numbers: Vec<u32>) {
        self.rewritten.numbers.extend(&numbers);
        let range = begin.0..self.rewritten.text.len();
        self.rewritten.marks.push(Mark { range, numbers, is_change: false });
    }

    /// Notes mutants that no compiler accepts.
    pub(super) fn refuse(&mut self, numbers: Vec<u32>) {
        self.rewritten.wrong.extend(numbers);
    }

    /// Copies the rest, and returns the whole.
    pub(super) fn finish(mut self) -> Rewritten {
        self.copy_to(self.source.len());
        self.rewritten
    }
}
