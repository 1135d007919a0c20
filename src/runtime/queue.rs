//! The recipients that have events: waiting for their turn, at it, or left alone for a moment.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::eventbox::EventId;
use crate::recipient::Recipient;

/// Which queue a recipient waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Rounds,
    Turns,
}

/// Where a recipient is. It is in one place only, so it is in at most one round or turn of this process at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    /// At work; found again meanwhile, it waits again afterwards.
    AtWork {
        found_again: bool,
    },
    /// A turn found nothing to do: what is in the box is for later.
    Resting(Instant),
}

/// First come, first served; a recipient that has more goes to the end, so that a hot one cannot starve the others.
#[derive(Debug, Default)]
pub(super) struct Queue {
    rounds: VecDeque<Recipient>,
    turns: VecDeque<Recipient>,
    places: HashMap<Recipient, Place>,
    /// Where the next listing of a hot recipient begins: a hint, which is forgotten at every poll.
    positions: HashMap<Recipient, EventId>,
}

impl Queue {
    /// A recipient has events. True when that was news.
    pub(super) fn found(&mut self, to: Recipient, lane: Lane, now: Instant) -> bool {
        match self.places.get_mut(&to) {
            Some(Place::Waiting) => return false,
            Some(Place::AtWork { found_again }) => {
                *found_again = true;
                return false;
            }
            Some(Place::Resting(until)) if *until > now => return false,
            _ => {}
        }
        self.places.insert(to.clone(), Place::Waiting);
        self.lane(lane).push_back(to);
        true
    }

    /// The next recipients of a lane; they are at work until they are [`done`](Queue::done).
    pub(super) fn take(&mut self, lane: Lane, count: usize) -> Vec<Recipient> {
        let queue = self.lane(lane);
        let taken: Vec<_> = queue.drain(..count.min(queue.len())).collect();
        for to in &taken {
            self.places.insert(to.clone(), Place::AtWork { found_again: false });
        }
        taken
    }

    /// A recipient is not at work any more; it waits again at the end when there is more, or when it was found meanwhile.
    pub(super) fn done(&mut self, to: Recipient, lane: Lane, more: bool) {
        let found_again = matches!(self.places.get(&to), Some(Place::AtWork { found_again: true }));
        if more || found_again {
            self.places.insert(to.clone(), Place::Waiting);
            self.lane(lane).push_back(to);
        } else {
            self.places.remove(&to);
        }
    }

    /// A recipient is not at work and does not wait, whatever was found meanwhile.
    pub(super) fn forget(&mut self, to: &Recipient) {
        self.places.remove(to);
    }

    /// A recipient had nothing to do; unless it was found again meanwhile, it is left alone until then.
    pub(super) fn rest(&mut self, to: Recipient, lane: Lane, until: Instant) {
        if matches!(self.places.get(&to), Some(Place::AtWork { found_again: true })) {
            self.done(to, lane, true);
        } else {
            self.places.insert(to, Place::Resting(until));
        }
    }

    /// Where the listing of a recipient begins.
    pub(super) fn position(&self, to: &Recipient) -> Option<EventId> {
        self.positions.get(to).copied()
    }

    /// The next listing begins behind this event; `None`: from the start.
    pub(super) fn go_on_behind(&mut self, to: &Recipient, last: Option<EventId>) {
        match last {
            Some(last) => self.positions.insert(to.clone(), last),
            None => self.positions.remove(to),
        };
    }

    /// Forgets what is only a hint: positions, and who rests.
    pub(super) fn forget_hints(&mut self, now: Instant) {
        self.positions.clear();
        self.places.retain(|_, place| !matches!(place, Place::Resting(until) if *until <= now));
    }

    /// Those of a shard that was just marked are not left alone any more.
    pub(super) fn wake(&mut self, is_marked: impl Fn(&Recipient) -> bool) {
        self.places.retain(|to, place| !(matches!(place, Place::Resting(_)) && is_marked(to)));
    }

    /// How many wait in a lane.
    pub(super) fn waiting(&self, lane: Lane) -> usize {
        match lane {
            Lane::Rounds => self.rounds.len(),
            Lane::Turns => self.turns.len(),
        }
    }

    /// Forgets everybody who waits: at a stop, and when the database is in trouble.
    pub(super) fn clear_waiting(&mut self) -> usize {
        let waiting = self.rounds.len() + self.turns.len();
        self.rounds.clear();
        self.turns.clear();
        self.places.retain(|_, place| !matches!(place, Place::Waiting));
        waiting
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Recipient> {
        match lane {
            Lane::Rounds => &mut self.rounds,
            Lane::Turns => &mut self.turns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn to(key: &str) -> Recipient {
        Recipient::new("cell", key).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_is_in_one_place() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert!(queue.found(to("a"), Lane::Rounds, now));
        assert!(!queue.found(to("a"), Lane::Rounds, now));
        assert_eq!(queue.take(Lane::Rounds, 10), [to("a")]);
        assert!(!queue.found(to("a"), Lane::Rounds, now));
        queue.done(to("a"), Lane::Rounds, false);
        assert_eq!(queue.take(Lane::Rounds, 10), [to("a")], "it was found while it was at work");
        queue.done(to("a"), Lane::Rounds, false);
        assert_eq!(queue.waiting(Lane::Rounds), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_more_goes_to_the_end() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for key in ["hot", "b", "c"] {
            queue.found(to(key), Lane::Turns, now);
        }
        let hot = queue.take(Lane::Turns, 1).remove(0);
        queue.done(hot, Lane::Turns, true);
        assert_eq!(queue.take(Lane::Turns, 3), [to("b"), to("c"), to("hot")]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_found_when_the_time_is_over_or_the_shard_marked() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let until = now + Duration::from_secs(1);
        for _ in 0..2 {
            queue.found(to("a"), Lane::Rounds, now);
            queue.take(Lane::Rounds, 1);
            queue.rest(to("a"), Lane::Rounds, until);
            assert!(!queue.found(to("a"), Lane::Rounds, now));
            queue.wake(|_| true);
        }
        assert!(queue.found(to("a"), Lane::Rounds, now));
        queue.take(Lane::Rounds, 1);
        queue.rest(to("a"), Lane::Rounds, until);
        assert!(queue.found(to("a"), Lane::Rounds, until));
    }
}
