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

/// A way to take at most this many recipients of a lane.
pub(super) type Choose = fn(&mut Queues, Lane, usize) -> Vec<Recipient>;

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

    /// Takes the first recipient of a lane, and those of its shard behind it.
    pub(super) fn take_of_one_shard(&mut self, lane: Lane, count: usize) -> Vec<Recipient> {
        let queue = self.0.entry(lane).or_default();
        let shard = queue.front().map(Recipient::shard);
        let mut taken = Vec::new();
        queue.retain(|to| {
            let is_taken = taken.len() < count && Some(to.shard()) == shard;
            if is_taken {
                taken.push(to.clone());
            }
            !is_taken
        });
        taken
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

    #[test]
    fn recipients_of_one_shard_are_taken_together_and_in_order() {
        let mut queues = Queues::default();
        let all: Vec<_> = (0..2_000).map(|n| to(&n.to_string())).collect();
        all.iter().for_each(|to| queues.push(Lane::REDUCERS, to.clone()));
        let of_first: Vec<_> = all.iter().filter(|to| to.shard() == all[0].shard()).cloned().collect();
        assert!(of_first.len() > 3, "{}", of_first.len());
        assert_eq!(queues.take_of_one_shard(Lane::REDUCERS, 2), of_first[..2]);
        assert_eq!(queues.waiting(Lane::REDUCERS), all.len() - 2);
        let next = queues.take_of_one_shard(Lane::REDUCERS, 100);
        assert_eq!(next.first().map(Recipient::shard), Some(all[1].shard()));
        assert!(next.iter().all(|to| to.shard() == all[1].shard()));
        assert!(Queues::default().take_of_one_shard(Lane::REDUCERS, 1).is_empty());
    }
}
