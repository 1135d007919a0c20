//! The amounts of a run.

use std::time::Duration;

/// The sizes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Number of timed rounds.
    pub(crate) rounds: usize,
    /// Whether a warm-up round comes first. The first round of all counts the costs.
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
    /// Number of events of W4, and of requests of W7, at 500 a second.
    pub(crate) timed: u32,
    /// Number of events of W5.
    pub(crate) published: usize,
    /// Number of messages of W5r.
    pub(crate) backlog: usize,
    /// Number of lines of W7 in each direction.
    pub(crate) lines: usize,
    /// Numbers of streams of W7.
    pub(crate) streams: [usize; 3],
    /// Numbers of pending events at the points of W6.
    pub(crate) pending: Vec<i64>,
    /// Numbers of drained events and recipients at each point of W6.
    pub(crate) growth_drained: (usize, usize),
    /// Length of an emit measurement at each point of W6.
    pub(crate) growth_emit_for: Duration,
    /// Number of timed turns at each point of W6.
    pub(crate) growth_turns: usize,
    /// Length of the soak of W6.
    pub(crate) soak_for: Duration,
}

impl Scale {
    /// Returns the full amounts.
    pub(crate) fn full(rounds: usize, most_pending: i64) -> Self {
        Scale {
            rounds,
            warm_up: true,
            emit_for: Duration::from_secs(5),
            batched: 200_000,
            drained: (200_000, 1_000),
            singles: 50_000,
            hot: 200_000,
            timed: 5_000,
            published: 50_000,
            backlog: 1_000_000,
            lines: 50_000,
            streams: [1, 100, 1_000],
            pending: points(1_000, most_pending),
            growth_drained: (20_000, 1_000),
            growth_emit_for: Duration::from_secs(2),
            growth_turns: 200,
            soak_for: Duration::from_secs(30 * 60),
        }
    }

    /// Returns amounts that show roughly how fast everything is.
    pub(crate) fn quick(rounds: usize, most_pending: i64) -> Self {
        Scale {
            rounds,
            warm_up: true,
            emit_for: Duration::from_millis(200),
            batched: 10_000,
            drained: (5_000, 50),
            singles: 250,
            hot: 5_000,
            timed: 200,
            published: 2_000,
            backlog: 50_000,
            lines: 2_000,
            streams: [1, 100, 1_000],
            pending: points(1_000, most_pending),
            growth_drained: (2_000, 100),
            growth_emit_for: Duration::from_millis(100),
            growth_turns: 10,
            soak_for: Duration::from_secs(1),
        }
    }

    /// Returns amounts that only show whether everything works. The figures mean nothing.
    pub(crate) fn smoke(rounds: usize, most_pending: i64) -> Self {
        Scale {
            rounds,
            warm_up: false,
            emit_for: Duration::from_millis(20),
            batched: 1_000,
            drained: (1_000, 20),
            singles: 100,
            hot: 1_000,
            timed: 50,
            published: 500,
            backlog: 500,
            lines: 100,
            streams: [1, 4, 16],
            pending: points(100, most_pending),
            growth_drained: (200, 20),
            growth_emit_for: Duration::from_millis(20),
            growth_turns: 5,
            soak_for: Duration::from_millis(100),
        }
    }

    /// Returns the number of rounds, including the warm-up.
    pub(crate) fn all_rounds(&self) -> usize {
        self.rounds + usize::from(self.warm_up)
    }
}

/// Returns ten times as many pending events at each point, from the smallest.
fn points(least: i64, most: i64) -> Vec<i64> {
    std::iter::successors(Some(least), |point: &i64| point.checked_mul(10)).take_while(|point| *point <= most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_of_a_curve_are_powers_of_ten() {
        assert_eq!(points(1_000, 1_000), [1_000]);
        assert_eq!(points(1_000, 1_000_000), [1_000, 10_000, 100_000, 1_000_000]);
        assert_eq!(points(100, 9_999), [100, 1_000]);
    }
}
