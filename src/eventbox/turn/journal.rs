//! Rows of the journal for the events that a turn removes.

use std::collections::HashMap;

use uuid::Uuid;

use crate::eventbox::event::Event;
use crate::recipient::Recipient;
use crate::store::{JournalOutcome, JournalWrite};

/// The names of the listed events that have one, by id.
#[derive(Debug)]
pub(crate) struct Names(HashMap<Uuid, Box<str>>);

impl Names {
    pub(crate) fn of(listed: &[Event]) -> Self {
        Names(listed.iter().filter_map(|event| Some((event.id().0, event.name()?.into()))).collect())
    }

    /// Returns the rows of events that a turn removes for one reason.
    pub(crate) fn rows<'a>(
        &'a self,
        to: &'a Recipient,
        turn: i64,
        removed: &'a [Uuid],
        outcome: JournalOutcome,
    ) -> impl Iterator<Item = JournalWrite<'a>> {
        removed.iter().map(move |id| JournalWrite {
            shard: to.shard().into(),
            recipient: to.as_str(),
            id: *id,
            name: self.0.get(id).map(|name| &**name),
            turn,
            outcome,
        })
    }
}
