//! The number of events of a request: as many as the destination can answer in time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests at the limit that must succeed before the limit grows by an eighth.
const GROW_AFTER: u32 = 4;

/// Size of requests to one destination. A request over its deadline makes the size smaller, and quick answers make it
/// larger again, slowly.
#[derive(Debug)]
pub(crate) struct Sizing {
    most: usize,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    limit: usize,
    /// Below this the limit doubles with each success; above it the limit grows slowly.
    known_good: usize,
    successes: u32,
}

impl Sizing {
    /// Begins with the largest size.
    pub(crate) fn new(most: usize) -> Self {
        let current = Current { limit: most, known_good: most, successes: 0 };
        Sizing { most, current: Mutex::new(current) }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the most events of a request now.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Notes an answer. The limit grows when a larger request would be answered within half of the deadline.
    pub(crate) fn answered(&self, events: usize, took: Duration, deadline: Duration) {
        let mut current = self.lock();
        if events > 1 && took > deadline.mul_f64(0.75) {
            current.shrink_to(events - events / 4);
            return;
        }
        if events < current.limit || current.limit >= self.most {
            return;
        }
        let grown = if current.limit < current.known_good {
            (current.limit * 2).min(current.known_good)
        } else {
            current.limit + (current.limit / 8).max(1)
        };
        let grown = grown.min(self.most);
        let expected = took.mul_f64(crate::instrument::whole(grown) / crate::instrument::whole(events.max(1)));
        if expected > deadline / 2 {
            return;
        }
        current.successes += 1;
        if current.limit < current.known_good || current.successes >= GROW_AFTER {
            current.limit = grown;
            current.known_good = current.known_good.max(grown);
            current.successes = 0;
        }
    }

    /// Notes a request that met its deadline. The next one has a quarter of its events.
    pub(crate) fn late(&self, events: usize) {
        self.lock().shrink_to(events / 4);
    }

    /// Notes a refused request whose parts the server took. The next one has half of its events.
    pub(crate) fn refused(&self, events: usize) {
        self.lock().shrink_to(events / 2);
    }

    /// Notes a request that failed for an unknown reason. While requests grow after an outage, this size is too large.
    pub(crate) fn failed(&self, events: usize) {
        let mut current = self.lock();
        if current.limit < current.known_good {
            current.known_good = (events / 2).max(1);
            current.limit = current.limit.min(current.known_good);
        }
    }

    /// Begins with small requests after an outage. They double until they are as large as before.
    pub(crate) fn restart(&self) {
        let mut current = self.lock();
        current.known_good = current.known_good.max(current.limit);
        current.limit = current.known_good.min(2);
        current.successes = 0;
    }
}

impl Current {
    fn shrink_to(&mut self, events: usize) {
        self.limit = self.limit.min(events.max(1));
        self.known_good = self.limit;
        self.successes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[test]
    fn the_size_settles_where_half_of_the_deadline_suffices() {
        for (per_event_ms, expected) in [(150, 12..=17), (1_000, 1..=3), (3_000, 1..=1), (10, 50..=50)] {
            let sizing = Sizing::new(50);
            for _ in 0..200 {
                let events = sizing.limit();
                let took = Duration::from_millis(per_event_ms) * u32::try_from(events).unwrap();
                if took > DEADLINE { sizing.late(events) } else { sizing.answered(events, took, DEADLINE) }
            }
            assert!(expected.contains(&sizing.limit()), "{per_event_ms} ms: {}", sizing.limit());
        }
    }

    #[test]
    fn a_size_grows_slowly_after_a_deadline_and_quickly_after_an_outage() {
        let sizing = Sizing::new(100);
        sizing.late(100);
        assert_eq!(sizing.limit(), 25);
        let answer = || sizing.answered(sizing.limit(), Duration::from_millis(1), DEADLINE);
        (0..4).for_each(|_| answer());
        assert_eq!(sizing.limit(), 28);
        sizing.answered(1, Duration::from_millis(1), DEADLINE);
        assert_eq!(sizing.limit(), 28, "a small request says nothing about larger ones");
        sizing.restart();
        assert_eq!(sizing.limit(), 2);
        (0..4).for_each(|_| answer());
        assert_eq!(sizing.limit(), 28);
        sizing.restart();
        answer();
        sizing.failed(4);
        assert_eq!(sizing.limit(), 2, "four were too many");
        (0..2_000).for_each(|_| answer());
        assert_eq!(sizing.limit(), 100);
        sizing.failed(100);
        assert_eq!(sizing.limit(), 100, "an outage says nothing about sizes");
    }
}
