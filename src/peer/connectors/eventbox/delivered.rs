//! The events of one stream that a hub has and that may come again.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::eventbox::EventId;

/// Version of the text, so that a later form is told from this one.
const VERSION: &str = "ids ";

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// A set of events, stored as the position of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Delivered(BTreeSet<EventId>);

impl Delivered {
    pub(super) fn has(&self, id: EventId) -> bool {
        self.0.contains(&id)
    }

    /// Adds the events of a batch, and forgets those before `oldest`, which the sender has no more.
    pub(super) fn with(&self, oldest: Option<EventId>, batch: impl IntoIterator<Item = EventId>) -> Self {
        let kept = self.0.iter().copied().filter(|id| oldest.is_none_or(|oldest| *id >= oldest));
        Delivered(kept.chain(batch).collect())
    }
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|id| write!(f, "{}", id.as_uuid().simple()))
    }
}

impl FromStr for Delivered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "the checkpoint is not one of an edge".to_owned();
        let digits = text.strip_prefix(VERSION).ok_or_else(refused)?;
        let ids = digits.as_bytes().chunks(ID_DIGITS).map(|digits| Uuid::try_parse_ascii(digits).map(EventId::from));
        ids.collect::<Result<_, _>>().map(Delivered).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> EventId {
        EventId::from(Uuid::from_u128(number))
    }

    fn set(numbers: impl IntoIterator<Item = u128>) -> Delivered {
        Delivered(numbers.into_iter().map(id).collect())
    }

    #[test]
    fn a_set_is_read_back() {
        for delivered in [set([]), set([7]), set([1, u128::MAX])] {
            assert_eq!(delivered.to_string().parse(), Ok(delivered));
        }
        assert!("17".parse::<Delivered>().is_err());
        assert!("ids 17".parse::<Delivered>().is_err());
    }

    #[test]
    fn only_what_the_sender_has_no_more_is_forgotten() {
        let first = set([]).with(Some(id(1)), [id(1), id(2), id(3)]);
        assert_eq!(first, set([1, 2, 3]));
        assert_eq!(first.with(Some(id(1)), [id(1)]), set([1, 2, 3]), "2 and 3 may come again");
        assert_eq!(first.with(Some(id(3)), [id(3), id(4)]), set([3, 4]));
        let late = set([5, 6]).with(Some(id(4)), [id(4)]);
        assert_eq!(late, set([4, 5, 6]), "an event that committed late is before those that were sent");
        assert_eq!(first.with(None, [id(9)]), set([1, 2, 3, 9]), "nothing is known: nothing is forgotten");
    }
}
