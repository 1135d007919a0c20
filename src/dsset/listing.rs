//! Items of a set at one moment.

use std::time::Duration;

use uuid::Uuid;

use super::item::Item;
use crate::recipient::Recipient;

/// The oldest items of a set, as they were when they were listed.
///
/// It is a hint until it is popped: items of it may be gone by then, which [`PopOp::can_pop`](super::PopOp::can_pop) tells. It can be popped
/// for as long as the set's tombstone delay.
#[derive(Debug, Clone)]
pub struct Listing {
    pub(super) of: Recipient,
    pub(super) delay: Duration,
    pub(super) listed_at_us: i64,
    pub(super) items: Vec<Item>,
    /// The events that the items are, in the order of the items.
    pub(super) events: Vec<Uuid>,
    pub(super) more_remain: bool,
    pub(super) garbage: Vec<String>,
}

impl Listing {
    /// Whose set was listed.
    #[must_use]
    pub fn of(&self) -> &Recipient {
        &self.of
    }

    /// The items, oldest first, none twice.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether the set held more items than were asked for.
    #[must_use]
    pub fn more_remain(&self) -> bool {
        self.more_remain
    }

    /// Ids that are still remembered though their delay is over, in order; at most as many as items were asked for.
    ///
    /// The [`Pruner`](super::Pruner) will forget them, or [`cleanup_garbage`](super::cleanup_garbage) at once. An id is never garbage before: an
    /// item leaves no storage behind when it is popped.
    #[must_use]
    pub fn garbage(&self) -> &[String] {
        &self.garbage
    }
}
