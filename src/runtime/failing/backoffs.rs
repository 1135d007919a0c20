//! Back-off of recipients in the memory of this process: no event was to blame, or the database could not note the
//! failure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::recipient::Recipient;
use crate::retry::pause_after;

/// Most recipients that are remembered. A later one is tried again when a scan finds it.
const MAX_REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Backoffs {
    failing: HashMap<Recipient, Failing>,
    /// Recipients that wait, by due time.
    waiting: BTreeSet<(Instant, Recipient)>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    /// Failures in a row.
    failures: u32,
    until: Instant,
}

impl Backoffs {
    /// Notes a failure, and returns the pause of the recipient, `at_least` that long.
    pub(super) fn failed(
        &mut self,
        to: &Recipient,
        (first, longest): (Duration, Duration),
        at_least: Option<Duration>,
        now: Instant,
    ) -> Duration {
        let before = self.failing.get(to).copied();
        let failures = before.map_or(0, |failing| failing.failures);
        let pause = at_least.unwrap_or_else(|| pause_after(failures, first, longest));
        if let Some(failing) = before {
            self.waiting.remove(&(failing.until, to.clone()));
        } else if self.failing.len() >= MAX_REMEMBERED {
            return pause;
        }
        let until = now + pause;
        self.failing.insert(to.clone(), Failing { failures: failures.saturating_add(1), until });
        self.waiting.insert((until, to.clone()));
        pause
    }

    /// Forgets a recipient that succeeded.
    pub(super) fn is_over(&mut self, to: &Recipient) {
        if let Some(failing) = self.failing.remove(to) {
            self.waiting.remove(&(failing.until, to.clone()));
        }
    }

    /// Returns whether a recipient is backing off.
    pub(crate) fn leaves_alone(&self, to: &Recipient, now: Instant) -> bool {
        self.failing.get(to).is_some_and(|failing| failing.until > now)
    }

    /// Returns the recipients whose pauses have ended, once each.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Recipient> {
        let mut due = Vec::new();
        while self.next().is_some_and(|next| next <= now) {
            due.extend(self.waiting.pop_first().map(|(_, to)| to));
        }
        due
    }

    /// Returns when the next pause ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

    fn to(key: &str) -> Recipient {
        Recipient::new("cell", key).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_each_failure_and_end() {
        let mut backoffs = Backoffs::default();
        for longest in [1, 2, 4, 4] {
            let pause = backoffs.failed(&to("a"), PAUSES, None, Instant::now());
            assert!(pause <= Duration::from_secs(longest) && pause * 2 >= Duration::from_secs(longest), "{pause:?}");
            assert!(
                backoffs.leaves_alone(&to("a"), Instant::now()) && !backoffs.leaves_alone(&to("b"), Instant::now())
            );
            assert_eq!(backoffs.due(Instant::now()), []);
            tokio::time::advance(pause).await;
            assert_eq!(backoffs.due(Instant::now()), [to("a")]);
            assert_eq!(backoffs.due(Instant::now()), [], "it is handed out once");
            assert!(!backoffs.leaves_alone(&to("a"), Instant::now()));
        }
        backoffs.is_over(&to("a"));
        assert!(backoffs.failed(&to("a"), PAUSES, None, Instant::now()) <= PAUSES.0);
        let asked = Duration::from_secs(9);
        assert_eq!(backoffs.failed(&to("a"), PAUSES, Some(asked), Instant::now()), asked);
        assert_eq!(backoffs.next(), Some(Instant::now() + asked));
        backoffs.is_over(&to("a"));
        assert_eq!(backoffs.next(), None);
    }
}
