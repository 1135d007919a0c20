//! Items of a set.

use std::fmt;

use bytes::Bytes;

use super::error::Error;
use crate::error::Misuse;
use crate::recipient::{Recipient, check_key};
use crate::store::Noted;

/// The most bytes of an item's value; far smaller is better.
pub const MAX_ITEM_BYTES: usize = 1 << 20;

/// The most items of one call.
pub const MAX_ITEMS: usize = 10_000;

/// The most bytes that the values of one [`Set::add`](super::Set::add) have together.
pub const MAX_ITEMS_BYTES: usize = 64 << 20;

/// One element of a set: an id and a value.
///
/// The id is unique in its set for as long as the item is there and for the tombstone delay after: 1 to
/// [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES) bytes without NUL, checked when it is added. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    id: Box<str>,
    value: Bytes,
}

impl Item {
    /// An item.
    #[must_use]
    pub fn new(id: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Item { id: id.into().into(), value: value.into() }
    }

    /// The id: the name of the event that the item is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bytes that were added.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// Shows the size of the value and not the value: payloads do not belong into logs.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("id", &self.id).field("value_bytes", &self.value.len()).finish()
    }
}

/// Result of adding an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Added {
    /// It is in the set now.
    Added,
    /// It was there already, or in quarantine. Nothing was changed; the first value stays.
    Duplicate,
    /// It was popped or removed, not longer ago than the tombstone delay. Nothing was changed.
    Tombstoned,
}

impl From<Noted> for Added {
    fn from(noted: Noted) -> Self {
        match noted {
            Noted::Added => Added::Added,
            Noted::Duplicate => Added::Duplicate,
            Noted::Tombstoned => Added::Tombstoned,
        }
    }
}

pub(super) fn check_items(of: &Recipient, items: &[Item]) -> Result<(), Error> {
    let limit = |misuse| Error::limit(format!("add to the set of {of}"), misuse);
    if items.len() > MAX_ITEMS {
        return Err(limit(Misuse::TooMany { count: items.len(), limit: MAX_ITEMS }));
    }
    for item in items {
        check_key("item's id", &item.id).map_err(limit)?;
        if item.value.len() > MAX_ITEM_BYTES {
            let bytes = item.value.len();
            return Err(limit(Misuse::TooLong { what: "item's value", bytes, limit: MAX_ITEM_BYTES }));
        }
    }
    let bytes = items.iter().map(|item| item.value.len()).sum();
    if bytes > MAX_ITEMS_BYTES {
        return Err(limit(Misuse::TooLong { what: "sum of the values", bytes, limit: MAX_ITEMS_BYTES }));
    }
    Ok(())
}
