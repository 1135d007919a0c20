//! Which rounds start: the lanes take turns, and a round is as large as its lane allows.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use super::registry::Handler;
use super::scheduler::{Scheduler, Task};
use super::tasks::{Aim, Place, run_round};
use crate::recipient::Recipient;
use crate::store::Backend;

/// The start of a round.
struct Start {
    /// Most recipients of the round.
    recipients: usize,
    /// Whether a single recipient gets a turn of its own instead.
    prefers_turns: bool,
}

impl<B: Backend> Scheduler<B> {
    /// Starts rounds until as many run as may, or until no lane has enough recipients for one.
    pub(super) fn start_rounds(&mut self, now: Instant) {
        while self.rounds < self.shared.config.rounds.get() && self.start_next_round(now) {}
        let queue = &self.queue;
        self.windows.close_empty(|lane| queue.waiting(lane) == 0);
    }

    /// Returns when the next round may begin that collects events.
    pub(super) fn next_round_due(&self) -> Option<Instant> {
        let may_begin = self.rounds < self.shared.config.rounds.get();
        may_begin.then(|| self.windows.next_due()).flatten()
    }

    /// Notes that a round ended, how long it took, and whether it was given up; `None` when the database failed.
    pub(crate) fn round_ended(&mut self, lane: Lane, recipients: usize, how: Option<(Duration, bool)>) {
        self.rounds -= 1;
        self.windows.ended(lane);
        if let Some((took, was_given_up)) = how {
            self.paces.rounded(lane, recipients, took, was_given_up, Instant::now());
        }
    }

    fn start_next_round(&mut self, now: Instant) -> bool {
        for lane in self.queue.round_lanes(self.last_lane) {
            let start = match self.windows.may_begin(lane, self.is_full(lane, now), now) {
                Some(true) => Some(Start { recipients: self.most_of(lane, now), prefers_turns: false }),
                Some(false) => None,
                None if self.is_of_a_processor(lane) => self.start_of_a_processor(lane, now),
                None => self.start_of_reducers(lane),
            };
            if let Some(start) = start {
                self.last_lane = lane;
                let taken = self.take_free(lane, start.recipients);
                self.begin_round(lane, taken, start.prefers_turns);
                return true;
            }
        }
        false
    }

    /// Returns the most recipients of a round of a lane.
    fn most_of(&self, lane: Lane, now: Instant) -> usize {
        match self.is_of_a_processor(lane) {
            true => self.paces.allowed(lane, now),
            false => self.shared.config.round_recipients.get(),
        }
    }

    fn is_of_a_processor(&self, lane: Lane) -> bool {
        let has_it = |handler: &Handler<B>| matches!(handler, Handler::Processor(_, its) if *its == lane);
        lane != Lane::REDUCERS && self.shared.handlers.values().any(has_it)
    }

    fn is_full(&self, lane: Lane, now: Instant) -> bool {
        self.queue.waiting(lane) >= self.most_of(lane, now)
    }

    /// Returns how a round of reducers starts, if there are enough recipients for one.
    fn start_of_reducers(&self, lane: Lane) -> Option<Start> {
        let most = self.shared.config.round_recipients.get();
        self.has_enough(lane, most / 4).then(|| {
            // Where rounds do not wait for each other, a round of one is the fastest for its recipient.
            let recipients = if !B::ONE_WRITER && self.fits_singly(lane) { 1 } else { most };
            Start { recipients, prefers_turns: false }
        })
    }

    /// Returns how a round of a processor starts, if there are enough recipients for one.
    fn start_of_a_processor(&self, lane: Lane, now: Instant) -> Option<Start> {
        let (most, free) = (self.paces.allowed(lane, now), self.shared.config.workers.get().saturating_sub(self.turns));
        if (most == 1 && free == 0) || !self.has_enough(lane, most / 4) {
            return None;
        }
        let singly = !B::ONE_WRITER && self.queue.waiting(lane) <= free && self.fits_singly(lane);
        Some(Start { recipients: if singly { 1 } else { most }, prefers_turns: free > 0 })
    }

    /// Returns whether a lane has recipients for a round. The last free round waits for many, so that rounds are large
    /// under load.
    fn has_enough(&self, lane: Lane, many: usize) -> bool {
        let (waiting, most) = (self.queue.waiting(lane), self.shared.config.rounds.get());
        // A lane without a round gets one, or lanes with few recipients would wait for as long as another one is busy.
        let runs = self.running.values().any(|task| matches!(task, Task::Round(its, _) if *its == lane));
        waiting > many || (waiting > 0 && (!runs || self.rounds < (most - 1).max(1)))
    }

    /// Returns whether each waiting recipient may have a round of its own, and one round stays free.
    fn fits_singly(&self, lane: Lane) -> bool {
        self.queue.waiting(lane) <= self.shared.config.rounds.get().saturating_sub(1 + self.rounds)
    }

    fn begin_round(&mut self, lane: Lane, taken: Vec<Recipient>, prefers_turns: bool) {
        match taken.as_slice() {
            [] => return,
            [one] if prefers_turns => return self.begin_turn(one.clone(), Aim::Work),
            _ => {}
        }
        let place =
            |to: &Recipient| Place { to: to.clone(), after: self.queue.position(to), kept: self.states.lend(to) };
        let places = taken.iter().map(place).collect();
        let task = run_round(Arc::clone(&self.shared), lane, places, self.windows.begin(lane));
        self.rounds += 1;
        self.running.insert(self.tasks.spawn(task).id(), Task::Round(lane, taken));
    }
}
