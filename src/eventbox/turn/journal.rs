//! Rows of the journal for the events that a turn removes.

use std::collections::HashMap;

use uuid::Uuid;

use crate::eventbox::event::Event;
use crate::origin::SharedOrigin;
use crate::recipient::Recipient;
use crate::store::{JournalOutcome, JournalWrite};

/// The names and origins of the listed events that have one, by id.
#[derive(Debug)]
pub(crate) struct Names(HashMap<Uuid, (Option<Box<str>>, Option<SharedOrigin>)>);

impl Names {
    pub(crate) fn of(listed: &[Event]) -> Self {
        let of = |event: &Event| {
            let (name, origin) = (event.name().map(Into::into), event.shared_origin().cloned());
            (name.is_some() || origin.is_some()).then_some((event.id().0, (name, origin)))
        };
        Names(listed.iter().filter_map(of).collect())
    }

    /// Returns the rows of events that a turn removes for one reason.
    pub(crate) fn rows<'a>(
        &'a self,
        to: &'a Recipient,
        turn: i64,
        removed: &'a [Uuid],
        outcome: JournalOutcome,
    ) -> impl Iterator<Item = JournalWrite<'a>> {
        removed.iter().map(move |id| {
            let known = self.0.get(id);
            JournalWrite {
                shard: to.shard().into(),
                recipient: to.as_str(),
                id: *id,
                name: known.and_then(|(name, _)| name.as_deref()),
                origin: known.and_then(|(_, origin)| origin.as_ref()).map(SharedOrigin::text),
                turn,
                outcome,
            }
        })
    }
}
