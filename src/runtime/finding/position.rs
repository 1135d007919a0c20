//! Where listings begin. Removed rows that somebody's long snapshot still keeps make the front of a box slow to read, so a listing begins behind what
//! is known to be gone.
//!
//! Hints, because an event may commit late: a walk that sees one before a position forgets that.
//!
//! A sender's event that commits late must be listed before what its sender emits after that commit. So a position behind consumed events stays
//! before the ids of the last minute. Only behind events that a processor left in the box does a position follow the listing at once.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::eventbox::EventId;
use crate::recipient::Recipient;

/// The most recipients whose position is remembered; when there are more, all are forgotten, and those that are used come back.
const MAX_POSITIONS: usize = 20_000;

/// Where the next listings begin.
#[derive(Debug, Default)]
pub(crate) struct Positions(HashMap<Recipient, Position>);

#[derive(Debug, Clone, Copy)]
struct Position {
    behind: EventId,
    /// Up to which event everything was consumed, and when, if nothing before the position was passed over.
    emptied: Option<(EventId, Instant)>,
}

impl Positions {
    /// Behind which event the listing of a recipient begins.
    pub(crate) fn of(&self, to: &Recipient) -> EventId {
        self.0.get(to).map_or(EventId::NIL, |position| position.behind)
    }

    /// Whether the listing passes over events that were there when they were listed.
    pub(crate) fn passed_over(&self, to: &Recipient) -> bool {
        self.0.get(to).is_some_and(|position| position.emptied.is_none())
    }

    /// Whether an event that a walk saw is one that the listing would not come to.
    pub(crate) fn are_late(&self, to: &Recipient, seen: EventId) -> bool {
        self.0.get(to).is_some_and(|position| position.behind >= seen)
    }

    /// Whether everything up to an event was consumed.
    pub(crate) fn are_behind(&self, to: &Recipient, seen: EventId) -> bool {
        self.emptied_of(to).is_some_and(|(last, _)| seen <= last)
    }

    /// Whether that was known only after a walk had begun that saw the event.
    pub(crate) fn were_behind(&self, to: &Recipient, seen: EventId, walk_began: Instant) -> bool {
        self.emptied_of(to).is_some_and(|(last, at)| seen <= last && walk_began < at)
    }

    /// Events up to this one were listed, and more remain: some that were left, or only others behind it.
    pub(crate) fn more_remain(&mut self, to: &Recipient, last: EventId, left_some: bool) {
        // To begin before events that were passed over would list them again.
        if left_some || self.passed_over(to) {
            return self.set(to, Position { behind: last, emptied: None });
        }
        self.behind_consumed(to, last);
    }

    /// All events up to this one were listed and consumed, and there were no more.
    pub(crate) fn emptied(&mut self, to: &Recipient, last: EventId) {
        // Behind a position something may have been left, and who is not at its start does not know.
        if self.passed_over(to) {
            return self.forget(to);
        }
        self.behind_consumed(to, last);
    }

    fn behind_consumed(&mut self, to: &Recipient, last: EventId) {
        self.set(to, Position { behind: last.before_late_ones(), emptied: Some((last, Instant::now())) });
    }

    /// The next listing begins with the first event.
    pub(crate) fn forget(&mut self, to: &Recipient) {
        self.0.remove(to);
    }

    fn emptied_of(&self, to: &Recipient) -> Option<(EventId, Instant)> {
        self.0.get(to)?.emptied
    }

    fn set(&mut self, to: &Recipient, position: Position) {
        if let Some(known) = self.0.get_mut(to) {
            *known = position;
            return;
        }
        if self.0.len() >= MAX_POSITIONS {
            self.0.clear();
        }
        self.0.insert(to.clone(), position);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_consumed_after_a_walk_had_begun_is_not_news() {
        let (mut positions, to) = (Positions::default(), Recipient::new("cell", "a").unwrap());
        let (first, last, later) = (EventId::mint(), EventId::mint(), EventId::mint());
        let began = Instant::now();
        assert!(!positions.were_behind(&to, first, began), "nothing is known");
        tokio::time::advance(Duration::from_millis(1)).await;
        positions.emptied(&to, last);
        assert!(positions.were_behind(&to, first, began) && positions.were_behind(&to, last, began));
        assert!(!positions.were_behind(&to, later, began), "it came since");
        assert!(!positions.were_behind(&to, first, Instant::now()), "it committed late");
        positions.more_remain(&to, last, true);
        assert!(!positions.were_behind(&to, first, began), "it was passed over");
    }
}
