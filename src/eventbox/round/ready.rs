//! A recipient whose decision is ready: what the library writes for it, and what its committed turn leaves.

use uuid::Uuid;

use super::Listed;
use crate::eventbox::decide::reducer::Next;
use crate::eventbox::decide::transition::PostProcess;
use crate::eventbox::event::{Event, EventId};
use crate::eventbox::metrics;
use crate::eventbox::turn::Turn;
use crate::eventbox::turn::decision::whole_range;
use crate::eventbox::turn::inside::Failure;
use crate::eventbox::turn::journal::Names;
use crate::outbox::{Caused, Stored, Writer};
use crate::recipient::Recipient;
use crate::store::{JournalOutcome, JournalWrite, Removed, RoundWrite, StateWrite};

/// A recipient whose decision is ready.
pub(crate) struct Ready {
    /// Index of the recipient among the members.
    pub(super) index: usize,
    pub(super) to: Recipient,
    pub(super) turn: i64,
    /// Token of the commit that made that turn, when the turn comes from memory.
    pub(super) token: Option<Uuid>,
    listed: usize,
    last: EventId,
    more_listed: bool,
    /// State to write, if the library keeps it.
    pub(super) state: Next<Vec<u8>>,
    /// Events that the claim of the turn removes: those that are consumed, and then the garbage.
    removed: Vec<Uuid>,
    pub(super) garbage: usize,
    /// Events to emit at the end of the transaction.
    pub(super) emitted: Vec<(Recipient, Event)>,
    /// Messages to publish at the end of the transaction, with their keys.
    pub(super) published: Vec<Caused>,
    /// First and last event, when all are removed and no late commit between them is expected.
    pub(super) range: Option<(EventId, EventId)>,
    /// Names of the listed events, when the journal gets a row for each removed event.
    pub(super) journal: Option<Names>,
    /// Bytes that the library writes.
    pub(super) bytes: usize,
}

/// Method of removing events: as ranges where possible, or all by ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Ranges,
    Ids,
}

/// What a committed turn leaves, besides the counts that the library knows.
pub(crate) struct Ended<K> {
    pub(super) left: Option<K>,
    pub(super) transitions: usize,
    /// Events that were consumed behind the claim of the turn.
    pub(super) consumed_alone: Vec<Uuid>,
    pub(super) failures: Vec<Failure>,
    pub(super) hooks: Vec<PostProcess>,
}

impl Ready {
    /// Makes the part of a recipient that removes these events, `garbage` of them as garbage.
    pub(super) fn of<K>(listed: &Listed<K>, token: Option<Uuid>, removed: Vec<Uuid>, garbage: usize) -> Self {
        let events = &listed.events;
        Ready {
            index: listed.index,
            to: listed.to.clone(),
            turn: listed.turn,
            token,
            listed: events.len(),
            last: events.last().map_or(EventId::NIL, Event::id),
            more_listed: listed.more_listed,
            state: Next::Stay,
            range: whole_range(events, removed.len()),
            removed,
            garbage,
            emitted: Vec::new(),
            published: Vec::new(),
            journal: listed.is_journaled.then(|| Names::of(events)),
            bytes: 0,
        }
    }

    /// Returns the writer of the messages of its turn.
    pub(super) fn writer(&self) -> Writer {
        Writer::new(&self.to, self.last.0)
    }

    /// Returns whether its turn adds rows to other tables: messages, emits or rows of the journal.
    pub(super) fn adds(&self) -> bool {
        self.only_emits() || !self.published.is_empty() || self.journal.is_some()
    }

    /// Returns whether its turn emits, and adds no other rows.
    pub(super) fn only_emits(&self) -> bool {
        !self.emitted.is_empty() && self.published.is_empty() && self.journal.is_none()
    }

    /// Returns the rows of the journal for the events that it removes.
    pub(super) fn journal_rows(&self) -> impl Iterator<Item = JournalWrite<'_>> {
        let turn = self.turn + 1;
        // Consumed events come before the garbage.
        let kinds = self.removed.split_at_checked(self.removed.len() - self.garbage).unwrap_or_default();
        self.journal.iter().flat_map(move |names| {
            let consumed = names.rows(&self.to, turn, kinds.0, JournalOutcome::Consumed);
            consumed.chain(names.rows(&self.to, turn, kinds.1, JournalOutcome::Garbage))
        })
    }

    pub(super) fn write(&self, removal: Removal) -> RoundWrite<'_> {
        let removed = match self.range {
            Some((first, last)) if removal == Removal::Ranges => {
                Removed::Range { first: first.0, last: last.0, count: self.listed }
            }
            _ => Removed::Ids(&self.removed),
        };
        RoundWrite {
            shard: self.to.shard().into(),
            recipient: self.to.as_str(),
            turn: self.turn,
            token: self.token,
            state: match &self.state {
                Next::Stay => StateWrite::Keep,
                Next::To(state) => StateWrite::Set(state),
                Next::Gone => StateWrite::Remove,
            },
            removed,
        }
    }

    /// Counts the committed turn, and returns it.
    pub(super) fn committed<K>(self, published: Vec<Stored>, ended: Ended<K>) -> (Turn, Option<K>) {
        let (together, kind) = (self.removed.len() - self.garbage, self.to.kind());
        let consumed = together + ended.consumed_alone.len();
        let failed: usize = ended.failures.iter().map(|failure| failure.events.len()).sum();
        metrics::committed(kind, self.listed, ended.transitions, consumed, self.garbage);
        // Consumed events come before the garbage.
        metrics::consumed(kind, self.removed.iter().take(together).chain(&ended.consumed_alone).copied());
        let turn = Turn {
            number: Some(self.turn + 1),
            consumed,
            garbage: self.garbage,
            more_remain: self.more_listed || self.listed > consumed + self.garbage + failed,
            left_listed: self.listed > consumed + self.garbage,
            failures: ended.failures,
            post_process: ended.hooks,
            published,
            last: Some(self.last),
            ..Turn::default()
        };
        (turn, ended.left)
    }
}
