//! The turn that writes messages. The ids of its messages tell the recipient, so that they can be found again.

use md5::{Digest, Md5};
use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use crate::clock::{new_id, new_marked_id};
use crate::recipient::Recipient;

tokio::task_local! {
    /// The turn whose code runs now.
    static CURRENT: Writer;
}

/// The turn of a recipient that writes messages.
///
/// Its messages have ids that end with the recipient's mark, and that are greater than the ids of all events that the
/// turn removes. So the messages that an event caused are found by these two, without a column or an index of their
/// own. Other recipients may have the same mark, which is 32 bits of a hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer {
    mark: u32,
    after: Uuid,
}

impl Writer {
    /// Makes the writer of a turn that removes these events.
    pub(crate) fn new<'a>(to: &Recipient, removed: impl Iterator<Item = &'a Uuid>) -> Self {
        Writer { mark: mark_of(to), after: removed.max().copied().unwrap_or_default() }
    }

    /// Runs the code of the turn. What it publishes is of this writer.
    pub(crate) fn within<F: Future>(self, work: F) -> TaskLocalFuture<Writer, F> {
        CURRENT.scope(self, work)
    }

    /// Returns the id of a new message.
    pub(super) fn id(self) -> Uuid {
        new_marked_id(self.after, self.mark)
    }
}

/// Returns the id of a new message, which is of the turn that runs now, if there is one.
pub(super) fn current_id() -> Uuid {
    CURRENT.try_with(|writer| writer.id()).unwrap_or_else(|_| new_id())
}

/// Returns the last four bytes of the ids of the messages that the turns of a recipient write. Their rule is part of
/// the stored format: the last four bytes of the MD5 of the recipient.
pub(crate) fn mark_of(to: &Recipient) -> u32 {
    let [.., a, b, c, d] = <[u8; 16]>::from(Md5::digest(to.as_str().as_bytes()));
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_of_a_turn_carry_its_mark_and_others_do_not() {
        let to = Recipient::new("aircraft", "N14228").unwrap();
        let (mark, event) = (mark_of(&to).to_be_bytes(), new_id());
        let writer = Writer::new(&to, [&event, &Uuid::nil()].into_iter());
        let of_turn = writer.within(async { current_id() }).await;
        assert!(of_turn > event && of_turn.as_bytes().ends_with(&mark));
        assert!(!current_id().as_bytes().ends_with(&mark));
    }
}
