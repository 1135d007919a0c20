//! Where listings start. Removed rows that the engine keeps for a long snapshot make the front of a box slow to
//! read, so a listing starts after the events that are known to be consumed.
//!
//! Positions only save time, because an event may commit late: a scan that sees an event before a position forgets the
//! position.
//!
//! A sender's event that commits late must be listed before the events that its sender emits after that commit. So a
//! position after consumed events stays before the ids of the last minute. Only after events that a processor left
//! in the box does a position follow the listing at once.
//!
//! That is a *search*: it goes on page by page until the end of the box, and then the next listing starts with the
//! first event. A scan that sees an event which the search has passed does not end the search. Else a box whose
//! pages take longer than the pause of two scans would be listed from its start for ever.

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
enum Position {
    /// Everything up to the event `last` was consumed at `at`. `behind` is before the ids of the minute before `at`,
    /// and stays there: their late events may commit at any time, and without a wake-up.
    Consumed { behind: EventId, last: EventId, at: Instant },
    /// A search left events in the box, after `from` and up to `behind`.
    Search { from: EventId, behind: EventId },
}

impl Position {
    fn behind(self) -> EventId {
        match self {
            Position::Consumed { behind, .. } | Position::Search { behind, .. } => behind,
        }
    }
}

impl Positions {
    /// Returns the event after which the listing of a recipient starts.
    pub(crate) fn of(&self, to: &Recipient) -> EventId {
        self.0.get(to).map_or(EventId::NIL, |position| position.behind())
    }

    /// Returns whether the listing skips events that were there when they were listed.
    pub(crate) fn passed_over(&self, to: &Recipient) -> bool {
        self.search_of(to).is_some()
    }

    /// Returns whether a search has passed an event that a scan saw. An event that committed late behind the search
    /// is among them; the search lists the box anew at its end.
    pub(crate) fn has_passed(&self, to: &Recipient, seen: EventId) -> bool {
        self.search_of(to).is_some_and(|(from, behind)| from < seen && seen <= behind)
    }

    /// Returns whether neither the listing nor a search would reach an event that a scan saw.
    pub(crate) fn is_before_position(&self, to: &Recipient, seen: EventId) -> bool {
        self.0.get(to).is_some_and(|position| position.behind() >= seen) && !self.has_passed(to, seen)
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
        match self.search_of(to) {
            Some((from, _)) => self.set(to, Position::Search { from, behind: last }),
            None if left_some => self.set(to, Position::Search { from: self.of(to), behind: last }),
            None => self.behind_consumed(to, last),
        }
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
        self.set(to, Position::Consumed { behind: last.before_late_ones(), last, at: Instant::now() });
    }

    /// Lets the next listing start with the first event.
    pub(crate) fn forget(&mut self, to: &Recipient) {
        self.0.remove(to);
    }

    fn emptied_of(&self, to: &Recipient) -> Option<(EventId, Instant)> {
        match self.0.get(to)? {
            Position::Consumed { last, at, .. } => Some((*last, *at)),
            Position::Search { .. } => None,
        }
    }

    /// Returns the start of the search of a recipient, and the last event that it has passed.
    fn search_of(&self, to: &Recipient) -> Option<(EventId, EventId)> {
        match self.0.get(to)? {
            Position::Search { from, behind } => Some((*from, *behind)),
            Position::Consumed { .. } => None,
        }
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
    #[tokio::test(start_paused = true)]
    async fn a_search_begins_anew_only_for_an_event_before_its_start() {
        let (mut positions, to) = (Positions::default(), Recipient::new("cell", "a").unwrap());
        let [consumed, left, behind] = [EventId::mint(), EventId::mint(), EventId::mint()];
        positions.emptied(&to, consumed);
        let from = positions.of(&to);
        for end in [left, behind] {
            positions.more_remain(&to, end, true);
            assert_eq!(positions.of(&to), end);
        }
        assert!(positions.is_before_position(&to, from), "no listing of the search could have had it");
        for seen in [consumed, left, behind] {
            assert!(!positions.is_before_position(&to, seen) && positions.has_passed(&to, seen));
        }
        assert!(!positions.has_passed(&to, EventId::mint()), "the search comes to it");
    }
    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn time_that_passes_moves_no_position() {
        let clock = crate::clock::Clock::at(std::time::SystemTime::now());
        let passed = clock.scope(async {
            let (mut positions, to) = (Positions::default(), Recipient::new("cell", "a").unwrap());
            positions.emptied(&to, EventId::mint());
            let before = positions.of(&to);
            clock.advance(Duration::from_secs(600));
            (before, positions.of(&to))
        });
        let (before, after) = passed.await;
        assert_eq!(before, after);
    }
}
