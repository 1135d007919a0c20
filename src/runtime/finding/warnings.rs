//! Warnings about events that no process here handles, once for each kind.

use std::collections::HashSet;

use crate::runtime::metrics;

/// Most kinds whose warnings are remembered.
const MAX_UNKNOWN_KINDS: usize = 1_000;

/// The warnings so far.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    unknown: HashSet<String>,
}

impl Warnings {
    /// Notes events of a kind that this process does not handle.
    pub(super) fn found_unknown(&mut self, kind: &str) {
        ::metrics::counter!(metrics::UNREGISTERED, "kind" => kind.to_owned()).increment(1);
        if self.unknown.len() < MAX_UNKNOWN_KINDS && self.unknown.insert(kind.to_owned()) {
            tracing::warn!(
                kind,
                "no handler for a kind in this process: its events stay; register the kind, or purge them"
            );
        }
    }
}
