//! When every shard is scanned: at `min_poll_interval` while polls find events without a wake-up, at twice the
//! interval after each poll that does not, and at `poll_interval` while the queue is full; at once when a poll is
//! requested.
//!
//! A scan steps over removed rows that the engine keeps for a long snapshot, so its time can grow without end. Polls
//! therefore take a tenth of the time (a quarter when requested), or as much as one poll in each longest pause
//! takes.

use std::time::Duration;

use tokio::time::Instant;

/// The next poll waits this many times the duration of the last, but not longer than the longest pause. A scan that
/// returns a new recipient in each [`WORTH_IT`] does not count.
const PAUSES_A_POLL: u32 = 9;

/// The same factor for a requested poll: whatever requests it has seen a change.
const PAUSES_ASKED: u32 = 3;

/// Longest wait of a requested poll, however long the last poll took. One slow disk access must not delay events of
/// other processes for long.
pub(super) const MAX_ASKED_PAUSE: Duration = Duration::from_millis(50);

/// Delay of a requested poll once two in a row found nothing; it doubles up to [`MAX_ASKED_PAUSE`]. The requests may
/// come from commits of this process, which it knows.
const IN_VAIN: Duration = Duration::from_millis(2);

/// Time of a scan that is worth one new recipient.
const WORTH_IT: Duration = Duration::from_micros(100);

/// The last polls, and the next one.
#[derive(Debug)]
pub(super) struct Polls {
    next: Instant,
    /// Start of the last poll.
    began: Instant,
    /// Earliest start of the next poll, by itself and when requested.
    none_before: Instant,
    none_asked_before: Instant,
    /// Whether a poll is requested that has not started.
    asked: bool,
    /// Whether the poll in flight was requested, and whether it found anything new.
    is_asked: bool,
    has_news: bool,
    /// Number of requested polls in a row that found nothing.
    in_vain: u32,
    /// Time that the scans of the poll in flight have taken so far.
    taking: Option<Duration>,
    pause: Duration,
    /// Pauses between two polls of a busy and of an idle database.
    pauses: (Duration, Duration),
}

impl Polls {
    /// Starts with the first poll in flight.
    pub(super) fn new(min_pause: Duration, max_pause: Duration, now: Instant) -> Self {
        Polls {
            next: now + min_pause,
            began: now,
            none_before: now,
            none_asked_before: now,
            asked: false,
            is_asked: false,
            has_news: false,
            in_vain: 0,
            taking: Some(Duration::ZERO),
            pause: min_pause,
            pauses: (min_pause, max_pause),
        }
    }

    /// Returns when the next poll is due. While the queue is full, its results would only wait, unless the poll is
    /// requested.
    pub(super) fn next(&self, is_busy: bool) -> Instant {
        if is_busy && !self.asked { self.next.max(self.began + self.pauses.1) } else { self.next }
    }

    /// Returns the pauses between two polls of a busy and of an idle database.
    pub(super) fn pauses(&self) -> (Duration, Duration) {
        self.pauses
    }

    /// Requests a poll, which starts when polls have not taken too much of the time.
    pub(super) fn ask(&mut self) {
        self.asked = true;
        self.next = self.next.min(self.none_asked_before);
    }

    /// Returns whether a poll starts now.
    pub(super) fn begin(&mut self, is_busy: bool, now: Instant) -> bool {
        let begins = now >= self.next(is_busy);
        if begins {
            self.began = now;
            self.taking = Some(Duration::ZERO);
            self.is_asked = std::mem::take(&mut self.asked);
            self.has_news = false;
            self.pause = (self.pause * 2).min(self.pauses.1);
            self.next = now + self.pause;
        }
        begins
    }

    /// Notes that a poll found events without a wake-up: the next poll comes soon.
    pub(super) fn found_news(&mut self, now: Instant) {
        self.pause = self.pauses.0;
        self.next = self.next.min(now + self.pause).max(self.none_before);
    }

    /// Adds the time of a scan, and the number of new recipients that it found.
    pub(super) fn scanned(&mut self, took: Duration, new: u32) {
        self.has_news |= new > 0;
        if let Some(taking) = &mut self.taking
            && took > WORTH_IT.saturating_mul(new)
        {
            *taking += took;
        }
    }

    /// Notes that the poll has scanned every shard.
    pub(super) fn ended(&mut self, now: Instant) {
        let Some(took) = self.taking.take() else { return };
        self.none_before = now + took.saturating_mul(PAUSES_A_POLL).min(self.pauses.1);
        self.in_vain = match (self.has_news, self.is_asked) {
            (true, _) => 0,
            (false, true) => self.in_vain.saturating_add(1),
            (false, false) => self.in_vain,
        };
        let in_vain = match self.in_vain.checked_sub(2) {
            Some(more) => IN_VAIN.saturating_mul(2_u32.saturating_pow(more)),
            None => Duration::ZERO,
        };
        self.none_asked_before = now + took.saturating_mul(PAUSES_ASKED).max(in_vain).min(MAX_ASKED_PAUSE);
        self.next = self.next.max(if self.asked { self.none_asked_before } else { self.none_before });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_there_is_much_to_do_polls_are_rare_unless_one_is_asked_for() {
        let (shortest, longest, now) = (Duration::from_millis(10), Duration::from_secs(1), Instant::now());
        let mut polls = Polls::new(shortest, longest, now);
        polls.ended(now);
        polls.found_news(now);
        assert_eq!((polls.next(false), polls.next(true)), (now + shortest, now + longest));
        assert!(!polls.begin(true, now + longest / 2));
        assert!(polls.begin(true, now + longest));
        polls.found_news(now + longest);
        assert_eq!((polls.next(false), polls.next(true)), (now + longest + shortest, now + 2 * longest));
        polls.ask();
        assert_eq!(polls.next(true), polls.next(false));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_vain_are_delayed_longer_until_a_scan_finds_work() {
        let mut polls = Polls::new(Duration::from_millis(10), Duration::from_secs(1), Instant::now());
        let mut pause_after = |new: u32| {
            let now = Instant::now();
            polls.scanned(Duration::ZERO, new);
            polls.ended(now);
            polls.ask();
            let next = polls.next(false);
            assert!(polls.begin(false, next));
            next - now
        };
        pause_after(0);
        let pauses: Vec<u128> = (0..8).map(|_| pause_after(0).as_millis()).collect();
        assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 50, 50]);
        assert_eq!(pause_after(1), Duration::ZERO);
        assert_eq!(pause_after(0), Duration::ZERO, "one may be the answer to what the news did");
    }
}
