//! What is said to a person about finding work, each thing once in a while.

use std::collections::HashSet;

use crate::runtime::metrics;

/// The most kinds that a warning is remembered for.
const MAX_UNKNOWN_KINDS: usize = 1_000;

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    unknown: HashSet<String>,
}

impl Warnings {
    /// A walk found events of a kind that nobody here processes.
    pub(super) fn found_unknown(&mut self, kind: &str) {
        ::metrics::counter!(metrics::UNREGISTERED, "kind" => kind.to_owned()).increment(1);
        if self.unknown.len() < MAX_UNKNOWN_KINDS && self.unknown.insert(kind.to_owned()) {
            tracing::warn!(
                kind,
                "events of a kind that nobody here processes stay in their boxes: register it, or purge them"
            );
        }
    }
}
