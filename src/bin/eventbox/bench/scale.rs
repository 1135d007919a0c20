//! How much is measured.

use std::time::Duration;

/// The sizes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Rounds that are timed, after one that is not.
    pub(crate) rounds: usize,
    /// How long single events are emitted (W1), each time.
    pub(crate) emit_for: Duration,
    /// Events of W2.
    pub(crate) batched: usize,
    /// Events and recipients of W3.
    pub(crate) drained: (usize, usize),
    /// Recipients of W3b, with one event each.
    pub(crate) singles: usize,
    /// Events of W3c.
    pub(crate) hot: usize,
    /// How long W4 lasts, each time.
    pub(crate) latency_for: Duration,
    /// Events of W5.
    pub(crate) published: usize,
    /// The points of W6: events that are pending.
    pub(crate) pending: Vec<i64>,
    /// Events and recipients that are drained at each point of W6.
    pub(crate) growth_drained: (usize, usize),
    /// How long emits are measured at each point of W6.
    pub(crate) growth_emit_for: Duration,
    /// How many turns are timed at each point of W6.
    pub(crate) growth_turns: usize,
    /// How long the soak of W6 lasts.
    pub(crate) soak_for: Duration,
}

impl Scale {
    /// Everything as it is meant to be.
    pub(crate) fn full(rounds: usize, most_pending: i64) -> Self {
        Scale {
            rounds,
            emit_for: Duration::from_secs(5),
            batched: 200_000,
            drained: (200_000, 1_000),
            singles: 50_000,
            hot: 200_000,
            latency_for: Duration::from_secs(10),
            published: 50_000,
            pending: points(most_pending),
            growth_drained: (20_000, 1_000),
            growth_emit_for: Duration::from_secs(2),
            growth_turns: 200,
            soak_for: Duration::from_secs(30 * 60),
        }
    }

    /// Enough to see that everything works, and roughly how fast.
    pub(crate) fn quick(rounds: usize, most_pending: i64) -> Self {
        Scale {
            rounds,
            emit_for: Duration::from_millis(300),
            batched: 10_000,
            drained: (10_000, 100),
            singles: 500,
            hot: 10_000,
            latency_for: Duration::from_millis(600),
            published: 2_000,
            pending: points(most_pending),
            growth_drained: (2_000, 100),
            growth_emit_for: Duration::from_millis(100),
            growth_turns: 20,
            soak_for: Duration::from_secs(1),
        }
    }
}

/// Powers of ten from 1,000.
fn points(most: i64) -> Vec<i64> {
    std::iter::successors(Some(1_000), |point: &i64| point.checked_mul(10)).take_while(|point| *point <= most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_of_a_curve_are_powers_of_ten() {
        assert_eq!(points(1_000), [1_000]);
        assert_eq!(points(1_000_000), [1_000, 10_000, 100_000, 1_000_000]);
        assert_eq!(points(99_999), [1_000, 10_000]);
    }
}
