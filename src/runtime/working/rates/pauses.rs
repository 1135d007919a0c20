//! Recipients that had a turn, and begin no further one before an interval has passed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::recipient::Recipient;

/// Most recipients of a kind whose last turns are remembered. One more ends the oldest pause early.
const MAX_REMEMBERED: usize = 100_000;

/// The pauses of a kind. All have the same length, so they end in the order of the turns.
#[derive(Debug)]
pub(super) struct Pauses {
    interval: Duration,
    of: HashMap<Recipient, Pause>,
    /// The ends of the pauses. A pause that a later turn has replaced is there twice.
    ends: VecDeque<(Instant, Recipient)>,
    /// Number of recipients with events.
    held: usize,
    most: usize,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    /// Whether the recipient has events.
    is_held: bool,
}

impl Pauses {
    pub(super) fn new(interval: Duration) -> Self {
        Pauses { interval, of: HashMap::new(), ends: VecDeque::new(), held: 0, most: MAX_REMEMBERED }
    }

    /// Notes that a turn of a recipient has committed.
    pub(super) fn turned(&mut self, to: &Recipient, now: Instant) {
        let until = now + self.interval;
        if self.of.insert(to.clone(), Pause { until, is_held: false }).is_some_and(|before| before.is_held) {
            self.held -= 1;
        }
        self.ends.push_back((until, to.clone()));
    }

    /// Returns whether the pause of a recipient with events goes on. Its end releases the recipient.
    pub(super) fn holds(&mut self, to: &Recipient, now: Instant) -> bool {
        let Some(pause) = self.of.get_mut(to).filter(|pause| pause.until > now) else { return false };
        if !pause.is_held {
            pause.is_held = true;
            self.held += 1;
        }
        true
    }

    /// Ends the pauses whose time has come, and those that are too many. Adds the recipients with events to `released`.
    pub(super) fn release(&mut self, now: Instant, released: &mut Vec<Recipient>) {
        while self.ends.front().is_some_and(|(until, _)| *until <= now || self.ends.len() > self.most) {
            let Some((until, to)) = self.ends.pop_front() else { return };
            let is_last = self.of.get(&to).is_some_and(|pause| pause.until == until);
            if is_last && self.of.remove(&to).is_some_and(|pause| pause.is_held) {
                self.held -= 1;
                released.push(to);
            }
        }
    }

    /// Returns when the next pause may end that holds a recipient with events.
    pub(super) fn next(&self) -> Option<Instant> {
        self.ends.front().filter(|_| self.held > 0).map(|(until, _)| *until)
    }

    /// Returns the number of recipients with events.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Returns recipients with events and the time that each of them still waits, in the order of the ends.
    pub(super) fn waits(&self, now: Instant) -> impl Iterator<Item = (&Recipient, Duration)> {
        let ends = self.ends.iter().take(if self.held > 0 { usize::MAX } else { 0 });
        let held = ends.filter(|(until, to)| {
            let pause = self.of.get(to);
            pause.is_some_and(|pause| pause.is_held && pause.until == *until)
        });
        held.map(move |(until, to)| (to, until.saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn to(key: impl std::fmt::Display) -> Recipient {
        Recipient::new("cell", key.to_string()).unwrap()
    }

    fn released(pauses: &mut Pauses) -> Vec<Recipient> {
        let mut released = Vec::new();
        pauses.release(Instant::now(), &mut released);
        released
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_with_events_is_released_once_at_the_end_of_its_pause() {
        let mut pauses = Pauses::new(INTERVAL);
        assert!(!pauses.holds(&to("a"), Instant::now()), "it had no turn");
        pauses.turned(&to("a"), Instant::now());
        assert_eq!(pauses.next(), None, "it has no events");
        assert!(pauses.holds(&to("a"), Instant::now()) && !pauses.holds(&to("b"), Instant::now()));
        assert!(pauses.holds(&to("a"), Instant::now()), "more events change nothing");
        assert_eq!((pauses.held(), pauses.next()), (1, Some(Instant::now() + INTERVAL)));
        tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(pauses.waits(Instant::now()).collect::<Vec<_>>(), [(&to("a"), Duration::from_millis(1))]);
        assert_eq!(released(&mut pauses), []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!pauses.holds(&to("a"), Instant::now()));
        assert_eq!(released(&mut pauses), [to("a")]);
        assert_eq!((released(&mut pauses), pauses.held(), pauses.of.len()), (vec![], 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_turn_begins_the_pause_again() {
        let mut pauses = Pauses::new(INTERVAL);
        pauses.turned(&to("a"), Instant::now());
        assert!(pauses.holds(&to("a"), Instant::now()));
        tokio::time::advance(INTERVAL / 2).await;
        pauses.turned(&to("a"), Instant::now());
        assert_eq!(pauses.held(), 0, "that turn has seen the events");
        assert!(pauses.holds(&to("a"), Instant::now()));
        tokio::time::advance(INTERVAL / 2).await;
        assert_eq!(released(&mut pauses), []);
        assert_eq!(pauses.waits(Instant::now()).count(), 1);
        tokio::time::advance(INTERVAL / 2).await;
        assert_eq!(released(&mut pauses), [to("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_that_are_too_many_end_early_and_lose_nobody() {
        let mut pauses = Pauses { most: 3, ..Pauses::new(INTERVAL) };
        for key in 0..5 {
            pauses.turned(&to(key), Instant::now());
            assert!(pauses.holds(&to(key), Instant::now()));
            assert!(pauses.ends.len() <= 4);
            assert_eq!(released(&mut pauses), if key < 3 { vec![] } else { vec![to(key - 3)] });
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(released(&mut pauses), [to(2), to(3), to(4)]);
    }
}
