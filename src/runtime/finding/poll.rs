//! When everything is looked at: at `min_poll_interval` while that finds what nobody told of, slower and slower while it does not, and at `poll_interval`
//! while there is much to do; at once when something asks for one.
//!
//! A look steps over everything that was removed and is still kept for somebody's long snapshot, so what it takes can grow without end: polls take
//! a tenth of the time (a quarter, when they are asked for), or as much as one in each longest pause takes.

use std::time::Duration;

use tokio::time::Instant;

/// How many times as long as a poll took the next one waits, but no longer than the longest pause. A walk that brings a new recipient in
/// each [`WORTH_IT`] is not counted.
const PAUSES_A_POLL: u32 = 9;

/// How many times as long as a poll took the next one waits when something asks for it: what asks has seen a change.
const PAUSES_ASKED: u32 = 3;

/// The most that a poll waits for which something asks, however long the one before it took: a moment in which the disk was slow must not make events
/// of other processes wait for long.
pub(super) const MAX_ASKED_PAUSE: Duration = Duration::from_millis(50);

/// How long an asked poll waits after one that was in vain, behind another one that was; twice as long after each, up to [`MAX_ASKED_PAUSE`]. What asks
/// may be this process' own commits, of which it knows.
const IN_VAIN: Duration = Duration::from_millis(2);

/// What a walk may take for each recipient that it brings and that was not known to have events.
const WORTH_IT: Duration = Duration::from_micros(100);

/// The polls so far, and the next one.
#[derive(Debug)]
pub(super) struct Polls {
    next: Instant,
    /// When the last one began.
    began: Instant,
    /// None begins earlier by itself, and none that is asked for.
    none_before: Instant,
    none_asked_before: Instant,
    /// Whether one was asked for that has not begun.
    asked: bool,
    /// Whether the one that is under way was, and whether it brought anything new.
    is_asked: bool,
    has_news: bool,
    /// How many that were asked for brought nothing, in a row.
    in_vain: u32,
    /// What the walks of the one that is under way have taken so far.
    taking: Option<Duration>,
    pause: Duration,
    /// Between two polls of a busy and of an idle database.
    pauses: (Duration, Duration),
}

impl Polls {
    /// The first one is under way.
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

    /// When the next one is due. While there is much to do, what it finds would only wait behind that, if nothing asks for it.
    pub(super) fn next(&self, is_busy: bool) -> Instant {
        if is_busy && !self.asked { self.next.max(self.began + self.pauses.1) } else { self.next }
    }

    /// Between two polls of a busy and of an idle database.
    pub(super) fn pauses(&self) -> (Duration, Duration) {
        self.pauses
    }

    /// One is wanted as soon as that does not take too much of the time.
    pub(super) fn ask(&mut self) {
        self.asked = true;
        self.next = self.next.min(self.none_asked_before);
    }

    /// Whether one begins now.
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

    /// One found what nobody had told of: the next one comes soon.
    pub(super) fn found_news(&mut self, now: Instant) {
        self.pause = self.pauses.0;
        self.next = self.next.min(now + self.pause).max(self.none_before);
    }

    /// A walk took so long, and brought so many that were not known to have events.
    pub(super) fn walked(&mut self, took: Duration, new: u32) {
        self.has_news |= new > 0;
        if let Some(taking) = &mut self.taking
            && took > WORTH_IT.saturating_mul(new)
        {
            *taking += took;
        }
    }

    /// Everything was looked at.
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
    async fn what_asks_in_vain_is_heard_less_and_less_until_there_is_news() {
        let mut polls = Polls::new(Duration::from_millis(10), Duration::from_secs(1), Instant::now());
        let mut pause_after = |new: u32| {
            let now = Instant::now();
            polls.walked(Duration::ZERO, new);
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
