//! What a stream has offered to its connection, and what became of it.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::eventbox::{Event, EventId};

/// State of an event that a turn has offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for the connection.
    Waiting,
    /// The connection has it.
    Sent,
    /// The other side has it: a turn will consume it.
    Acknowledged,
    /// A turn was told to consume it. When it is listed again, that turn was lost.
    Consumed,
    /// The other side refuses it for good.
    Refused,
}

/// What is known of the events of a stream.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) waiting: VecDeque<Event>,
    pub(super) fates: HashMap<EventId, Fate>,
    /// Number of events that are acknowledged.
    pub(super) acknowledged: usize,
    /// Time at which a turn consumes them.
    pub(super) due: Option<Instant>,
    /// Whether a turn for them is going to be asked for.
    pub(super) asks_soon: bool,
}

impl State {
    /// Number of events that wait or are sent.
    pub(super) fn unsettled(&self) -> usize {
        self.fates.values().filter(|fate| matches!(fate, Fate::Waiting | Fate::Sent)).count()
    }

    /// Forgets events that are in the box no more: a turn consumed them, or an operator took them away.
    pub(super) fn forget_gone(&mut self, listed: &[Event]) {
        let Some(last) = listed.last().map(Event::id) else { return };
        let listed: std::collections::HashSet<EventId> = listed.iter().map(Event::id).collect();
        self.fates.retain(|id, _| *id > last || listed.contains(id));
        let fates = &self.fates;
        self.waiting.retain(|event| fates.contains_key(&event.id()));
    }

    /// Takes the waiting events that fit into `max_bytes`, at least one if any waits.
    pub(super) fn take_some(&mut self, max_bytes: usize) -> Vec<Event> {
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        while let Some(next) = self.waiting.front() {
            bytes = bytes.saturating_add(next.value().len());
            if !taken.is_empty() && bytes > max_bytes {
                break;
            }
            let Some(event) = self.waiting.pop_front() else { break };
            self.fates.insert(event.id(), Fate::Sent);
            taken.push(event);
        }
        taken
    }
}
