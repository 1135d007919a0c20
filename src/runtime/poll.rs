//! When everything is looked at: at `min_poll_interval` while that finds what nobody told of, and slower and slower while it does not.
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

/// What a walk may take for each recipient that it brings and that was not known to have events.
const WORTH_IT: Duration = Duration::from_micros(100);

/// The polls so far, and the next one.
#[derive(Debug)]
pub(super) struct Polls {
    next: Instant,
    /// None begins earlier by itself, and none that is asked for.
    none_before: Instant,
    none_asked_before: Instant,
    /// Whether one was asked for that has not begun.
    asked: bool,
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
            none_before: now,
            none_asked_before: now,
            asked: false,
            taking: Some(Duration::ZERO),
            pause: min_pause,
            pauses: (min_pause, max_pause),
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Instant {
        self.next
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
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let begins = now >= self.next;
        if begins {
            self.taking = Some(Duration::ZERO);
            self.asked = false;
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
        self.none_asked_before = now + took.saturating_mul(PAUSES_ASKED).min(MAX_ASKED_PAUSE);
        self.next = self.next.max(if self.asked { self.none_asked_before } else { self.none_before });
    }
}
