//! The state of a box: the numbers that it has seen.

use eventbox::{BoxError, Event};
use serde::{Deserialize, Serialize};

/// Numbers as ranges, because a box sees tens of thousands of them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// First and last number of each range, in order.
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Numbers that were seen again.
    pub(crate) twice: Vec<u64>,
}

impl Seen {
    /// Adds the numbers of events, whose distance in a range is `step`. Returns the numbers.
    pub(crate) fn take(&mut self, events: &[Event], step: u64) -> Result<Vec<u64>, BoxError> {
        let numbers = events.iter().map(number_of).collect::<Result<Vec<_>, _>>()?;
        numbers.iter().for_each(|number| self.add(*number, step));
        Ok(numbers)
    }

    fn add(&mut self, number: u64, step: u64) {
        let at = self.ranges.partition_point(|(_, last)| *last < number);
        if self.ranges.get(at).is_some_and(|(first, _)| *first <= number) {
            self.twice.push(number);
            return;
        }
        let joins_before = at > 0 && self.ranges[at - 1].1 + step == number;
        let joins_behind = self.ranges.get(at).is_some_and(|(first, _)| number + step == *first);
        match (joins_before, joins_behind) {
            (true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (true, false) => self.ranges[at - 1].1 = number,
            (false, true) => self.ranges[at].0 = number,
            (false, false) => self.ranges.insert(at, (number, number)),
        }
    }
}

/// Returns the number of an event.
pub(crate) fn number_of(event: &Event) -> Result<u64, BoxError> {
    Ok(std::str::from_utf8(event.value())?.parse()?)
}
