//! The queues of ready recipients: one for each lane.

use std::collections::{BTreeMap, VecDeque};

use crate::recipient::Recipient;

/// The queue of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Rounds of recipients that may share one: those of all reducers, or those of a kind.
    Rounds(usize),
    Turns,
}

impl Lane {
    /// The lane that the recipients of all reducers share.
    pub(crate) const REDUCERS: Lane = Lane::Rounds(0);

    /// Returns the lane of the kind that was registered with this number.
    pub(crate) fn of_kind(number: usize) -> Self {
        Lane::Rounds(number + 1)
    }
}

/// The ready recipients of each lane, first come, first served.
#[derive(Debug, Default)]
pub(super) struct Queues(BTreeMap<Lane, VecDeque<Recipient>>);

impl Queues {
    pub(super) fn push(&mut self, lane: Lane, to: Recipient) {
        self.0.entry(lane).or_default().push_back(to);
    }

    /// Takes the first recipients of a lane.
    pub(super) fn take(&mut self, lane: Lane, count: usize) -> Vec<Recipient> {
        let queue = self.0.entry(lane).or_default();
        queue.drain(..count.min(queue.len())).collect()
    }

    /// Returns the number of recipients of a lane.
    pub(super) fn waiting(&self, lane: Lane) -> usize {
        self.0.get(&lane).map_or(0, VecDeque::len)
    }

    /// Returns the number of all recipients.
    pub(super) fn all_waiting(&self) -> usize {
        self.0.values().map(VecDeque::len).sum()
    }

    /// Returns the lanes of rounds with recipients: first those behind this lane, so that lanes take turns.
    pub(super) fn round_lanes(&self, behind: Lane) -> Vec<Lane> {
        let ready = self.0.iter().filter(|(lane, queue)| **lane != Lane::Turns && !queue.is_empty());
        let mut lanes: Vec<_> = ready.map(|(lane, _)| *lane).collect();
        lanes.sort_by_key(|lane| (*lane <= behind, *lane));
        lanes
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(key: &str) -> Recipient {
        Recipient::new("cell", key).unwrap()
    }

    #[test]
    fn lanes_of_rounds_take_turns() {
        let mut queues = Queues::default();
        let (first, second) = (Lane::of_kind(1), Lane::of_kind(2));
        for (key, lane) in [("a", second), ("b", first), ("c", Lane::REDUCERS), ("d", Lane::Turns)] {
            queues.push(lane, to(key));
        }
        assert_eq!(queues.round_lanes(first), [second, Lane::REDUCERS, first]);
        assert_eq!((queues.take(first, 9), queues.all_waiting()), (vec![to("b")], 3));
        assert_eq!(queues.round_lanes(second), [Lane::REDUCERS, second]);
    }
}
