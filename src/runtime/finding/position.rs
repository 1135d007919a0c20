//! Where listings start. Removed rows that the engine keeps for a long snapshot make the front of a box slow to
//! read, so a listing starts after the events that are known to be consumed.
//!
//! Positions only save time, because an event may commit late: a scan that sees an event before a position forgets the
//! position.
//!
//! A sender's event that commits late must be listed before the events that its sender emits after that commit. So a
//! position after consumed events stays before the ids of the last minute. Only after events that a processor left
//! in the box does a position follow the listing at once.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::eventbox::EventId;
use crate::recipient::Recipient;

/// Most recipients with a position. At the bound all positions are forgotten; those in use come back.
const MAX_POSITIONS: usize = 20_000;

/// Starts of the next listings.
#[derive(Debug, Default)]
pub(crate) struct Positions(HashMap<Recipient, Position>);

#[derive(Debug, Clone, Copy)]
struct Position {
    behind: EventId,
    /// Event up to which everything was consumed, and the time of that, if the listing skipped nothing.
    emptied: Option<(EventId, Instant)>,
}

impl Positions {
    /// Returns the event after which the listing of a recipient starts.
    pub(crate) fn of(&self, to: &Recipient) -> EventId {
        self.0.get(to).map_or(EventId::NIL, |position| position.behind)
    }

    /// Returns whether the listing skips events that were there when they were listed.
    pub(crate) fn passed_over(&self, to: &Recipient) -> bool {
        self.0.get(to).is_some_and(|position| position.emptied.is_none())
    }

    /// Returns whether the listing would not reach an event that a scan saw.
    pub(crate) fn is_before_position(&self, to: &Recipient, seen: EventId) -> bool {
        self.0.get(to).is_some_and(|position| position.behind >= seen)
    }

    /// Returns whether everything up to an event was consumed.
    pub(crate) fn is_consumed(&self, to: &Recipient, seen: EventId) -> bool {
        self.emptied_of(to).is_some_and(|(last, _)| seen <= last)
    }

    /// Returns whether that became known only after the scan had begun that saw the event.
    pub(crate) fn was_consumed_since(&self, to: &Recipient, seen: EventId, scan_began: Instant) -> bool {
        self.emptied_of(to).is_some_and(|(last, at)| seen <= last && scan_began < at)
    }

    /// Notes that events up to this one were listed, and that events remain: some before it, or only later ones.
    pub(crate) fn more_remain(&mut self, to: &Recipient, last: EventId, left_some: bool) {
        // A start before the skipped events would list them again.
        if left_some || self.passed_over(to) {
            return self.set(to, Position { behind: last, emptied: None });
        }
        self.behind_consumed(to, last);
    }

    /// Notes that all events up to this one were consumed, and that no more were there.
    pub(crate) fn emptied(&mut self, to: &Recipient, last: EventId) {
        // A listing that started at a position cannot know what is before it.
        if self.passed_over(to) {
            return self.forget(to);
        }
        self.behind_consumed(to, last);
    }

    fn behind_consumed(&mut self, to: &Recipient, last: EventId) {
        self.set(to, Position { behind: last.before_late_ones(), emptied: Some((last, Instant::now())) });
    }

    /// Lets the next listing start with the first event.
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
    async fn an_event_consumed_after_the_scan_began_is_not_new() {
        let (mut positions, to) = (Positions::default(), Recipient::new("cell", "a").unwrap());
        let (first, last, later) = (EventId::mint(), EventId::mint(), EventId::mint());
        let began = Instant::now();
        assert!(!positions.was_consumed_since(&to, first, began), "nothing is known");
        tokio::time::advance(Duration::from_millis(1)).await;
        positions.emptied(&to, last);
        assert!(positions.was_consumed_since(&to, first, began) && positions.was_consumed_since(&to, last, began));
        assert!(!positions.was_consumed_since(&to, later, began), "it came since");
        assert!(!positions.was_consumed_since(&to, first, Instant::now()), "it committed late");
        positions.more_remain(&to, last, true);
        assert!(!positions.was_consumed_since(&to, first, began), "it was passed over");
    }
}
