//! How many recipients the rounds of a processor take: fewer after a round that took long or was given up, and then
//! more again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use crate::runtime::config::ROUND_PATIENCE;

/// Time for which the recipients of a kind get turns of their own, after even small rounds were given up.
const SINGLE_FOR: Duration = Duration::from_secs(10);

/// Fewest recipients of a round that takes long. A slow commit costs many recipients as much as one.
const FEW: usize = 4;

/// The sizes of the rounds of each kind.
#[derive(Debug)]
pub(super) struct Paces {
    of: HashMap<Lane, Pace>,
    /// Most recipients of a round.
    most: usize,
    /// Time that a round should take.
    time: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    allowed: usize,
    since: Instant,
}

impl Paces {
    pub(super) fn new(most: usize, time: Duration) -> Self {
        Paces { of: HashMap::new(), most, time }
    }

    /// Returns how many recipients the next round takes. With 1 each recipient gets a turn of its own.
    pub(super) fn allowed(&self, lane: Lane, now: Instant) -> usize {
        match self.of.get(&lane) {
            None => self.most,
            Some(pace) if pace.allowed == 1 && now.duration_since(pace.since) >= SINGLE_FOR => self.most.min(2),
            Some(pace) => pace.allowed,
        }
    }

    /// Notes a round, and whether it was given up.
    pub(super) fn rounded(&mut self, lane: Lane, recipients: usize, took: Duration, given_up: bool, now: Instant) {
        let allowed = self.allowed(lane, now);
        let next = if given_up || took >= self.time * ROUND_PATIENCE {
            recipients / 2
        } else if took > self.time {
            let in_time = recipients as u128 * self.time.as_nanos() / took.as_nanos().max(1);
            usize::try_from(in_time).unwrap_or(allowed).min(allowed).max(FEW)
        } else if recipients >= allowed {
            allowed * 2
        } else {
            allowed
        };
        self.of.insert(lane, Pace { allowed: next.clamp(1, self.most), since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::Rounds(1);
    const SHORT: Duration = Duration::from_millis(10);

    fn paces() -> Paces {
        Paces::new(100, Duration::from_millis(50))
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_that_take_long_become_smaller_and_then_larger_again() {
        let (mut paces, now) = (paces(), Instant::now());
        assert_eq!(paces.allowed(LANE, now), 100);
        paces.rounded(LANE, 100, Duration::from_millis(200), false, now);
        assert_eq!(paces.allowed(LANE, now), 25);
        paces.rounded(LANE, 3, SHORT, false, now);
        assert_eq!(paces.allowed(LANE, now), 25, "a small round shows nothing about large ones");
        for allowed in [50, 100, 100] {
            paces.rounded(LANE, paces.allowed(LANE, now), SHORT, false, now);
            assert_eq!(paces.allowed(LANE, now), allowed);
        }
        paces.rounded(LANE, 2, Duration::from_millis(900), false, now);
        assert_eq!(paces.allowed(LANE, now), FEW);
        assert_eq!(paces.allowed(Lane::Rounds(2), now), 100, "another kind");
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_that_are_given_up_end_in_turns_until_the_next_try() {
        let (mut paces, now) = (paces(), Instant::now());
        for allowed in [50, 25, 12, 6, 3, 1] {
            paces.rounded(LANE, paces.allowed(LANE, now), SHORT, true, now);
            assert_eq!(paces.allowed(LANE, now), allowed);
        }
        let later = now + SINGLE_FOR;
        assert_eq!(paces.allowed(LANE, later), 2);
        paces.rounded(LANE, 2, Duration::from_secs(1), false, later);
        assert_eq!(paces.allowed(LANE, later), 1, "it took its patience");
        let later = later + SINGLE_FOR;
        paces.rounded(LANE, 2, SHORT, false, later);
        assert_eq!(paces.allowed(LANE, later), 4);
    }
}
