//! Recipients that have events: ready, in flight, or resting.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::activity::{Activity, Again};
use super::lane::{Choose, Lane, Queues};
use crate::eventbox::EventId;
use crate::recipient::Recipient;
use crate::runtime::finding::position::Positions;

/// A first-in-first-out queue. A recipient with more events goes to the end, so that it cannot starve the others.
#[derive(Debug, Default)]
pub(crate) struct ReadySet {
    queues: Queues,
    activities: HashMap<Recipient, Activity>,
    positions: Positions,
    /// Recipients that a scan found and no wake-up has named since. They show that polling still finds work.
    found_by_scan: HashSet<Recipient>,
}

impl ReadySet {
    /// Adds a recipient whose first event a scan saw. Returns whether the recipient becomes ready because of that.
    pub(super) fn found(&mut self, to: Recipient, first: EventId, lane: Lane, began: Instant, now: Instant) -> bool {
        let is_late = self.is_late(&to, first);
        if is_late {
            self.list_anew(&to);
        } else if self.positions.was_consumed_since(&to, first, began) {
            // If another event committed late, the next listing starts before it, and the next scan finds it.
            return false;
        }
        match self.activities.get_mut(&to) {
            Some(Activity::Waiting) => false,
            // The search goes on to the end of the box, and lists it anew then.
            Some(Activity::AtWork { .. }) if self.positions.has_passed(&to, first) => false,
            Some(Activity::AtWork { again, from_start }) => {
                *from_start |= is_late;
                if *again != Again::WokenUp {
                    *again = Again::Seen(first);
                }
                false
            }
            // A resting recipient has no events after its position.
            Some(Activity::Resting(until)) if *until > now && !is_late => false,
            _ => {
                self.found_by_scan.insert(to.clone());
                self.wait(to, lane);
                true
            }
        }
    }

    /// Makes a recipient ready after the commit of an emit, also when it was resting.
    pub(super) fn woken_up(&mut self, to: Recipient, lane: Lane) {
        self.found_by_scan.remove(&to);
        match self.activities.get_mut(&to) {
            Some(Activity::Waiting) => {}
            Some(Activity::AtWork { again, .. }) => *again = Again::WokenUp,
            Some(Activity::Resting(_)) | None => self.wait(to, lane),
        }
    }

    /// Returns whether a scan saw an event that the next listing would not reach.
    pub(super) fn is_late(&self, to: &Recipient, seen: EventId) -> bool {
        self.positions.is_before_position(to, seen)
    }

    /// Returns whether a turn consumed the event that a scan saw, after the scan had begun.
    pub(super) fn has_consumed(&self, to: &Recipient, seen: EventId, began: Instant) -> bool {
        self.positions.was_consumed_since(to, seen, began)
    }

    /// Returns whether a scan found the recipient, and no wake-up named it until now.
    pub(crate) fn was_found_by_scan(&self, to: &Recipient) -> bool {
        self.found_by_scan.contains(to)
    }

    /// Takes recipients of a lane, chosen by `choose`. They are in flight until [`done`](ReadySet::done).
    pub(super) fn take_by(&mut self, choose: Choose, lane: Lane, count: usize) -> Vec<Recipient> {
        let taken = choose(&mut self.queues, lane, count);
        let at_work = |to: &Recipient| (to.clone(), Activity::AtWork { again: Again::No, from_start: false });
        self.activities.extend(taken.iter().map(at_work));
        taken
    }

    /// Puts a recipient in flight until [`done`](ReadySet::done). Returns false when it has a state already.
    pub(super) fn begin(&mut self, to: &Recipient) -> bool {
        let is_free = matches!(self.activities.get(to), None | Some(Activity::Resting(_)));
        if is_free {
            self.activities.insert(to.clone(), Activity::AtWork { again: Again::No, from_start: false });
        }
        is_free
    }

    /// Ends the flight of a recipient. With `more` events, or when found meanwhile, it goes to the end of the queue.
    pub(crate) fn done(&mut self, to: Recipient, lane: Lane, more: bool) {
        let found_again = self.was_found_again(&to);
        self.found_by_scan.remove(&to);
        if more || found_again {
            self.wait(to, lane);
        } else {
            self.activities.remove(&to);
        }
    }

    /// Forgets a recipient, whatever was found meanwhile.
    pub(crate) fn forget(&mut self, to: &Recipient) {
        self.found_by_scan.remove(to);
        self.activities.remove(to);
    }

    /// Lets a recipient rest that left events, unless it was found meanwhile. After an empty box any event is new.
    pub(crate) fn rest(&mut self, to: Recipient, lane: Lane, until: Instant, mut left_events: bool) {
        // The next listing has the events that it left.
        if self.positions.passed_over(&to) {
            self.list_anew(&to);
            left_events = true;
        }
        if self.was_found_again(&to) || !left_events {
            self.done(to, lane, false);
        } else {
            self.found_by_scan.remove(&to);
            self.activities.insert(to, Activity::Resting(until));
        }
    }

    /// Returns the start of the next listing of a recipient.
    pub(super) fn position(&self, to: &Recipient) -> EventId {
        self.positions.of(to)
    }

    /// Notes that events up to this one were listed, and that events remain: some before it, or only later ones.
    pub(crate) fn more_remain(&mut self, to: &Recipient, last: EventId, left_some: bool) {
        self.positions.more_remain(to, last, left_some);
        self.keep_position(to);
    }

    /// Notes that all events up to this one were consumed. The next listing starts before the ids of the last
    /// minute.
    pub(crate) fn emptied(&mut self, to: &Recipient, last: EventId) {
        self.positions.emptied(to, last);
        self.keep_position(to);
    }

    /// Lets the next listing start with the first event.
    pub(crate) fn list_anew(&mut self, to: &Recipient) {
        self.positions.forget(to);
    }

    /// Forgets the recipients whose rest has ended.
    pub(super) fn forget_rested(&mut self, now: Instant) {
        self.activities.retain(|_, activity| !matches!(activity, Activity::Resting(until) if *until <= now));
    }

    /// Wakes up the resting recipients of shards that were marked.
    pub(super) fn wake(&mut self, is_marked: impl Fn(&Recipient) -> bool) {
        self.activities.retain(|to, activity| !(matches!(activity, Activity::Resting(_)) && is_marked(to)));
    }

    /// Returns the number of ready recipients of a lane.
    pub(super) fn waiting(&self, lane: Lane) -> usize {
        self.queues.waiting(lane)
    }

    /// Returns the number of all ready recipients.
    pub(super) fn all_waiting(&self) -> usize {
        self.queues.all_waiting()
    }

    /// Returns the lanes of rounds in which recipients are ready: first those behind this lane.
    pub(super) fn round_lanes(&self, behind: Lane) -> Vec<Lane> {
        self.queues.round_lanes(behind)
    }

    /// Forgets all ready recipients: at a stop, and during an outage of the database.
    pub(crate) fn clear_waiting(&mut self) -> usize {
        let waiting = self.all_waiting();
        self.queues.clear();
        self.found_by_scan.clear();
        self.activities.retain(|_, activity| !matches!(activity, Activity::Waiting));
        waiting
    }

    /// Returns whether a scan found an event that the task in flight has not consumed.
    fn was_found_again(&self, to: &Recipient) -> bool {
        match self.activities.get(to) {
            Some(Activity::AtWork { again: Again::WokenUp, .. }) => true,
            Some(Activity::AtWork { again: Again::Seen(first), .. }) => !self.positions.is_consumed(to, *first),
            _ => false,
        }
    }

    fn wait(&mut self, to: Recipient, lane: Lane) {
        self.activities.insert(to.clone(), Activity::Waiting);
        self.queues.push(lane, to);
    }

    /// Lets the next listing include an event before the position that a scan saw during the flight.
    fn keep_position(&mut self, to: &Recipient) {
        if matches!(self.activities.get(to), Some(Activity::AtWork { from_start: true, .. })) {
            self.list_anew(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl ReadySet {
        fn take(&mut self, lane: Lane, count: usize) -> Vec<Recipient> {
            self.take_by(Queues::take, lane, count)
        }
    }

    fn to(key: &str) -> Recipient {
        Recipient::new("cell", key).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_is_in_one_place() {
        let (mut queue, now) = (ReadySet::default(), Instant::now());
        assert!(queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, now));
        assert!(!queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, now), "it waits already");
        assert_eq!(queue.take(Lane::REDUCERS, 10), [to("a")]);
        assert!(!queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, now), "it is at work");
        assert_eq!(queue.waiting(Lane::REDUCERS), 0);
        queue.done(to("a"), Lane::REDUCERS, false);
        assert_eq!(queue.take(Lane::REDUCERS, 10), [to("a")], "it was found while it was at work");
        queue.done(to("a"), Lane::REDUCERS, false);
        assert_eq!(queue.waiting(Lane::REDUCERS), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_the_turn_in_flight_consumed_is_not_listed_again() {
        let (mut queue, began, a) = (ReadySet::default(), Instant::now(), to("a"));
        let [first, last, later] = [EventId::mint(), EventId::mint(), EventId::mint()];
        for (seen, is_listed_again) in [(first, false), (later, true)] {
            queue.woken_up(a.clone(), Lane::REDUCERS);
            queue.take(Lane::REDUCERS, 1);
            queue.found(a.clone(), seen, Lane::REDUCERS, began, began);
            tokio::time::advance(Duration::from_millis(1)).await;
            queue.emptied(&a, last);
            queue.done(a.clone(), Lane::REDUCERS, false);
            assert_eq!(queue.take(Lane::REDUCERS, 1).len(), usize::from(is_listed_again));
            queue.forget(&a);
        }
        let now = Instant::now();
        assert!(!queue.found(a.clone(), last, Lane::REDUCERS, began, now), "the scan began before the turn had ended");
        assert!(queue.found(a.clone(), last, Lane::REDUCERS, now, now), "it committed late");
        queue.forget(&a);
        let late = queue.position(&a);
        assert!(queue.found(a.clone(), late, Lane::REDUCERS, began, now), "no listing comes to it, whatever turns end");
        assert_eq!(queue.position(&a), EventId::NIL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_with_more_events_goes_to_the_end() {
        let (mut queue, now) = (ReadySet::default(), Instant::now());
        for key in ["hot", "b", "c"] {
            queue.found(to(key), EventId::NIL, Lane::Turns, now, now);
        }
        let hot = queue.take(Lane::Turns, 1).remove(0);
        queue.done(hot, Lane::Turns, true);
        assert_eq!(queue.take(Lane::Turns, 3), [to("b"), to("c"), to("hot")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_in_time_or_when_the_shard_is_marked() {
        let (mut queue, now) = (ReadySet::default(), Instant::now());
        let until = now + Duration::from_secs(1);
        queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, now);
        for woken in [true, false] {
            assert_eq!(queue.take(Lane::REDUCERS, 1), [to("a")]);
            queue.rest(to("a"), Lane::REDUCERS, until, true);
            queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, now);
            assert_eq!(queue.waiting(Lane::REDUCERS), 0);
            queue.wake(|_| woken);
            queue.found(to("a"), EventId::NIL, Lane::REDUCERS, now, if woken { now } else { until });
        }
        assert_eq!(queue.take(Lane::REDUCERS, 1), [to("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_box_is_no_reason_to_rest() {
        let (mut queue, now, last) = (ReadySet::default(), Instant::now(), EventId::mint());
        let (a, until) = (to("a"), now + Duration::from_secs(1));
        queue.woken_up(a.clone(), Lane::REDUCERS);
        queue.take(Lane::REDUCERS, 1);
        queue.rest(a.clone(), Lane::REDUCERS, until, false);
        assert_eq!(queue.waiting(Lane::REDUCERS), 0);
        queue.found(a.clone(), last, Lane::REDUCERS, now, now);
        assert_eq!(queue.take(Lane::REDUCERS, 1), [to("a")]);
        // No event was after those that the turn had left, and these are still there.
        queue.more_remain(&a, last, true);
        queue.rest(a.clone(), Lane::REDUCERS, until, false);
        queue.found(a, last, Lane::REDUCERS, now, now);
        assert_eq!(queue.waiting(Lane::REDUCERS), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_ends_a_rest() {
        let (mut queue, now) = (ReadySet::default(), Instant::now());
        queue.woken_up(to("a"), Lane::Turns);
        queue.woken_up(to("a"), Lane::Turns);
        assert_eq!(queue.take(Lane::Turns, 10), [to("a")]);
        queue.rest(to("a"), Lane::Turns, now + Duration::from_secs(1), true);
        queue.woken_up(to("a"), Lane::Turns);
        assert_eq!(queue.take(Lane::Turns, 10), [to("a")]);
        queue.woken_up(to("a"), Lane::Turns);
        queue.done(to("a"), Lane::Turns, false);
        assert_eq!(queue.take(Lane::Turns, 10), [to("a")], "a wake-up came while it was in flight");
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_without_a_wake_up_was_found_by_a_scan() {
        let (mut queue, now) = (ReadySet::default(), Instant::now());
        for key in ["a", "b"] {
            queue.found(to(key), EventId::NIL, Lane::REDUCERS, now, now);
        }
        queue.take(Lane::REDUCERS, 2);
        queue.woken_up(to("b"), Lane::REDUCERS);
        assert!(queue.was_found_by_scan(&to("a")) && !queue.was_found_by_scan(&to("b")));
        queue.rest(to("a"), Lane::REDUCERS, now, true);
        queue.woken_up(to("a"), Lane::REDUCERS);
        queue.done(to("b"), Lane::REDUCERS, false);
        assert!(queue.found_by_scan.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn positions_are_forgotten_when_events_may_be_before_them() {
        let (mut queue, now, last) = (ReadySet::default(), Instant::now(), EventId::mint());
        let a = to("a");
        queue.emptied(&a, last);
        let behind = queue.position(&a);
        assert!(behind < last && behind > EventId::NIL);
        queue.woken_up(a.clone(), Lane::REDUCERS);
        queue.take(Lane::REDUCERS, 1);
        queue.rest(a.clone(), Lane::REDUCERS, now, true);
        queue.found(a.clone(), last, Lane::REDUCERS, now, now);
        assert_eq!(queue.position(&a), behind, "no event is before it");
        queue.found(a.clone(), behind, Lane::REDUCERS, now, now);
        assert_eq!(queue.position(&a), EventId::NIL, "a scan saw an event before it");

        queue.emptied(&a, last);
        queue.take(Lane::REDUCERS, 1);
        for _ in 0..2 {
            queue.found(a.clone(), EventId::NIL, Lane::REDUCERS, now, now);
        }
        queue.emptied(&a, last);
        assert_eq!(queue.position(&a), EventId::NIL, "scans saw events before it while it was in flight");
        queue.done(a.clone(), Lane::REDUCERS, false);
        queue.take(Lane::REDUCERS, 1);

        queue.more_remain(&a, last, true);
        queue.emptied(&a, last);
        assert_eq!(queue.position(&a), EventId::NIL, "events were left before it");
        queue.more_remain(&a, last, true);
        assert_eq!(queue.position(&a), last);
        queue.take(Lane::REDUCERS, 1);
        queue.rest(a.clone(), Lane::REDUCERS, now, true);
        assert_eq!(queue.position(&a), EventId::NIL, "the next listing includes it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_does_not_send_a_search_back_to_the_front() {
        let (mut queue, now, a) = (ReadySet::default(), Instant::now(), to("a"));
        let [first, second, third] = [EventId::mint(), EventId::mint(), EventId::mint()];
        queue.woken_up(a.clone(), Lane::REDUCERS);
        for listed in [first, second, third] {
            queue.take(Lane::REDUCERS, 1);
            queue.found(a.clone(), first, Lane::REDUCERS, now, now);
            queue.more_remain(&a, listed, true);
            queue.done(a.clone(), Lane::REDUCERS, true);
            queue.found(a.clone(), first, Lane::REDUCERS, now, now);
            assert_eq!(queue.position(&a), listed);
        }
        queue.take(Lane::REDUCERS, 1);
        queue.found(a.clone(), first, Lane::REDUCERS, now, now);
        queue.rest(a.clone(), Lane::REDUCERS, now, true);
        assert_eq!((queue.position(&a), queue.waiting(Lane::REDUCERS)), (EventId::NIL, 0), "it rests at its end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_event_ends_a_rest() {
        let (mut queue, now, last) = (ReadySet::default(), Instant::now(), EventId::mint());
        let (a, until) = (to("a"), now + Duration::from_secs(1));
        queue.emptied(&a, last);
        queue.woken_up(a.clone(), Lane::REDUCERS);
        queue.take(Lane::REDUCERS, 1);
        queue.rest(a.clone(), Lane::REDUCERS, until, true);
        queue.found(a.clone(), last, Lane::REDUCERS, now, now);
        assert_eq!(queue.waiting(Lane::REDUCERS), 0);
        queue.found(a.clone(), queue.position(&a), Lane::REDUCERS, now, now);
        assert_eq!((queue.waiting(Lane::REDUCERS), queue.position(&a)), (1, EventId::NIL));
    }
}
