//! Items of a set at one moment.

use std::time::Duration;

use uuid::Uuid;

use super::item::Item;
use crate::recipient::Recipient;

/// The oldest items of a set, as they were when they were listed.
///
/// Items may be gone when the listing is popped; [`PopOp::can_pop`](super::PopOp::can_pop) returns whether they are
/// there. A listing can be popped for as long as the set's tombstone delay.
#[derive(Debug, Clone)]
pub struct Listing {
    pub(super) of: Recipient,
    pub(super) delay: Duration,
    pub(super) listed_at_us: i64,
    pub(super) items: Vec<Item>,
    /// Ids of the events that are the items, in the order of the items.
    pub(super) events: Vec<Uuid>,
    pub(super) more_remain: bool,
    pub(super) garbage: Vec<String>,
}

impl Listing {
    /// Returns the recipient whose set was listed.
    #[must_use]
    pub fn of(&self) -> &Recipient {
        &self.of
    }

    /// Returns the items, oldest first, none twice.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Returns whether the set held more items than were listed.
    #[must_use]
    pub fn more_remain(&self) -> bool {
        self.more_remain
    }

    /// Returns ids that are still remembered although their delay is over, in order; at most as many as `max` of the
    /// list.
    ///
    /// The [`Pruner`](super::Pruner) forgets them at its next pass, or [`cleanup_garbage`](super::cleanup_garbage) at
    /// once.
    #[must_use]
    pub fn garbage(&self) -> &[String] {
        &self.garbage
    }
}
