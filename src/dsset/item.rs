//! Items of a set.

use std::fmt;

use bytes::Bytes;

use crate::eventbox::Event;

/// One element of a set: an id and a value.
///
/// An item is an event whose name is the item's id, with the limits of an [`Event`](crate::Event), which are checked
/// when it is added. The id is unique in its set while the item is there and for the tombstone delay after. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    id: Box<str>,
    value: Bytes,
}

impl Item {
    /// Makes an item.
    #[must_use]
    pub fn new(id: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Item { id: id.into().into(), value: value.into() }
    }

    /// Returns the id: the name of the event that the item is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the bytes that were added.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    pub(super) fn event(&self) -> Event {
        Event::new(self.value.clone()).named(&*self.id)
    }
}

/// Shows the size of the value and not the value: payloads do not belong into logs.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("id", &self.id).field("value_bytes", &self.value.len()).finish()
    }
}
