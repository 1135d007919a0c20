//! What is said to a person about finding work, each thing once in a while.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::metrics;

/// A walk that takes so long for each recipient that it brings is warned about, once in [`WARN_AGAIN`].
const SLOW_WALK: Duration = Duration::from_millis(100);

/// How long a warning about slow walks holds.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// The most kinds that a warning is remembered for.
const MAX_UNKNOWN_KINDS: usize = 1_000;

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    unknown: HashSet<String>,
    slow_at: Option<Instant>,
}

impl Warnings {
    /// A walk took so long and brought so many recipients.
    pub(super) fn walked(&mut self, took: Duration, brought: usize, now: Instant) {
        let enough = u32::try_from(brought).unwrap_or(u32::MAX).max(1);
        if took >= SLOW_WALK.saturating_mul(enough) && self.slow_at.is_none_or(|at| now - at >= WARN_AGAIN) {
            self.slow_at = Some(now);
            tracing::warn!(
                took_ms = took.as_millis(),
                brought,
                "looking for work takes long: the database is slow, or keeps what was removed for a transaction that is open for long; end that"
            );
        }
    }

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
