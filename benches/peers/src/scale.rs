//! The amounts of a run.

use std::time::Duration;

/// The sizes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Number of timed rounds.
    pub(crate) rounds: usize,
    /// Whether a warm-up round comes first.
    pub(crate) warm_up: bool,
    /// Length of a measurement of single emits (W1).
    pub(crate) emit_for: Duration,
    /// Number of events of W2.
    pub(crate) batched: usize,
    /// Numbers of events and recipients of W3.
    pub(crate) drained: (usize, usize),
    /// Number of recipients of W3b, with one event each.
    pub(crate) singles: usize,
    /// Number of events of W3c.
    pub(crate) hot: usize,
    /// Length of W4.
    pub(crate) latency_for: Duration,
    /// Number of messages of W5.
    pub(crate) published: usize,
    /// Number of messages of W5r.
    pub(crate) backlog: usize,
    /// Time limit of a measurement. Its rate then counts the events handled until the limit.
    pub(crate) cut_after: Duration,
}

impl Scale {
    /// Returns the full amounts. The drains and W5r are a tenth of those of `eventbox bench`, because several peers
    /// would need minutes.
    pub(crate) fn full(rounds: usize) -> Self {
        Scale {
            rounds,
            warm_up: true,
            emit_for: Duration::from_secs(5),
            batched: 50_000,
            drained: (20_000, 1_000),
            singles: 5_000,
            hot: 20_000,
            latency_for: Duration::from_secs(10),
            published: 20_000,
            backlog: 100_000,
            cut_after: Duration::from_secs(30),
        }
    }

    /// Returns amounts that show whether everything works, and roughly how fast.
    pub(crate) fn quick(rounds: usize) -> Self {
        Scale {
            rounds,
            warm_up: false,
            emit_for: Duration::from_millis(300),
            batched: 5_000,
            drained: (2_000, 100),
            singles: 500,
            hot: 1_000,
            latency_for: Duration::from_millis(1_000),
            published: 2_000,
            backlog: 5_000,
            cut_after: Duration::from_secs(3),
        }
    }
}
