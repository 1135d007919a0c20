//! How much is measured.

use std::time::Duration;

/// The sizes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Rounds that are timed.
    pub(crate) rounds: usize,
    /// Whether a round that is not timed comes first.
    pub(crate) warm_up: bool,
    /// How long single events are emitted (W1).
    pub(crate) emit_for: Duration,
    /// Events of W2.
    pub(crate) batched: usize,
    /// Events and recipients of W3.
    pub(crate) drained: (usize, usize),
    /// Recipients of W3b, with one event each.
    pub(crate) singles: usize,
    /// Events of W3c.
    pub(crate) hot: usize,
    /// How long W4 lasts.
    pub(crate) latency_for: Duration,
    /// When a measurement is cut, and rated by what was done until then.
    pub(crate) cut_after: Duration,
}

impl Scale {
    /// Everything as it is meant to be: a tenth of the drains of `eventbox bench`, since several peers need minutes for more.
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
            cut_after: Duration::from_secs(30),
        }
    }

    /// Enough to see that everything works, and roughly how fast.
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
            cut_after: Duration::from_secs(3),
        }
    }
}
