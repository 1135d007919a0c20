//! What a stream has to send, between the eventbox and the connection.
//!
//! A turn of the stream lists the oldest events of its box, and offers them here. The connection sends them and
//! acknowledges; a later turn consumes exactly what was acknowledged. So a crash loses nothing, and at most sends again
//! what was not consumed.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::runtime::Attended;

/// State of an event that a turn has offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits for the connection.
    Waiting,
    /// The connection has it.
    Sent,
    /// The other side has it: the next turn consumes it.
    Acknowledged,
    /// The other side refuses it for good.
    Refused,
}

/// The events of one open stream.
#[derive(Debug)]
pub(in crate::peer) struct Delivery {
    to: Recipient,
    attended: Arc<Attended>,
    in_flight: usize,
    state: Mutex<State>,
    changed: Notify,
    /// The stream ends for the connection, once nothing waits.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    fates: HashMap<EventId, Fate>,
}

impl State {
    /// Number of events that wait or are sent.
    fn unsettled(&self) -> usize {
        self.fates.values().filter(|fate| matches!(fate, Fate::Waiting | Fate::Sent)).count()
    }

    /// Forgets events that are in the box no more: a turn consumed them, or an operator took them away.
    fn forget_gone(&mut self, listed: &[Event]) {
        let Some(last) = listed.last().map(Event::id) else { return };
        let listed: std::collections::HashSet<EventId> = listed.iter().map(Event::id).collect();
        self.fates.retain(|id, _| *id > last || listed.contains(id));
        let fates = &self.fates;
        self.waiting.retain(|event| fates.contains_key(&event.id()));
    }
}

impl Delivery {
    pub(in crate::peer) fn new(
        to: Recipient,
        attended: Arc<Attended>,
        in_flight: NonZeroUsize,
        closing: CancellationToken,
    ) -> Self {
        Delivery { to, attended, in_flight: in_flight.get(), state: Mutex::default(), changed: Notify::new(), closing }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the oldest events of the box, listed from the start. Returns those that the turn consumes.
    pub(in crate::peer) fn offer(&self, events: &[Event]) -> Vec<EventId> {
        let mut state = self.lock();
        state.forget_gone(events);
        let mut room = self.in_flight.saturating_sub(state.unsettled());
        let (mut consumed, mut is_new) = (Vec::new(), false);
        for event in events {
            match state.fates.get(&event.id()) {
                Some(Fate::Acknowledged) => consumed.push(event.id()),
                Some(Fate::Waiting | Fate::Sent | Fate::Refused) => {}
                None if room > 0 => {
                    room -= 1;
                    is_new = true;
                    state.fates.insert(event.id(), Fate::Waiting);
                    state.waiting.push_back(event.clone());
                }
                None => {}
            }
        }
        drop(state);
        if is_new {
            self.changed.notify_one();
        }
        consumed
    }

    /// Waits until an event can be sent. `None` at the end of the stream. Cancel safe.
    pub(super) async fn ready(&self) -> Option<()> {
        loop {
            let changed = self.changed.notified();
            if !self.lock().waiting.is_empty() {
                return Some(());
            }
            if self.closing.is_cancelled() {
                return None;
            }
            tokio::select! {
                () = changed => {}
                () = self.closing.cancelled() => {}
            }
        }
    }

    /// Returns the oldest event that may still be in the box; `None` before the first one. Events are offered from the
    /// start of the box, and forgotten when a later listing lacks them.
    pub(super) fn oldest(&self) -> Option<EventId> {
        self.lock().fates.keys().min().copied()
    }

    /// Takes the waiting events that fit into `max_bytes`, at least one if any waits.
    pub(super) fn take_now(&self, max_bytes: usize) -> Option<Vec<Event>> {
        let taken = take_some(&mut self.lock(), max_bytes);
        (!taken.is_empty()).then_some(taken)
    }

    /// Notes that the other side has events, and lets a turn consume them.
    pub(super) fn acknowledge(&self, ids: impl IntoIterator<Item = EventId>) {
        let mut state = self.lock();
        for id in ids {
            state.fates.insert(id, Fate::Acknowledged);
        }
        drop(state);
        self.attended.wake(&self.to);
    }

    /// Puts events back to the front, in their order.
    pub(super) fn put_back(&self, events: Vec<Event>) {
        let mut state = self.lock();
        for event in events.into_iter().rev() {
            if state.fates.get(&event.id()) == Some(&Fate::Sent) {
                state.fates.insert(event.id(), Fate::Waiting);
                state.waiting.push_front(event);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Notes that the other side refuses an event for good.
    pub(super) fn refuse(&self, id: EventId) {
        self.lock().fates.insert(id, Fate::Refused);
    }

    /// Lets a refused event be offered again, because it is still in the box.
    pub(super) fn offer_again(&self, id: EventId) {
        self.lock().fates.remove(&id);
        self.attended.wake(&self.to);
    }

    /// Ends the stream for the connection, once nothing waits.
    pub(in crate::peer) fn close(&self) {
        self.closing.cancel();
    }

    /// Returns whether the stream was closed.
    pub(in crate::peer) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Waits until the stream is closed. Cancel safe.
    pub(super) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// Returns whether nothing waits, and the connection has nothing that it has not acknowledged.
    pub(in crate::peer) fn is_idle(&self) -> bool {
        self.lock().unsettled() == 0
    }

    /// Returns the last event that was acknowledged, of those that a turn may not have consumed yet.
    pub(in crate::peer) fn last_acknowledged(&self) -> Option<EventId> {
        let state = self.lock();
        state.fates.iter().filter(|(_, fate)| **fate == Fate::Acknowledged).map(|(id, _)| *id).max()
    }

    /// The eventbox of the stream.
    pub(in crate::peer) fn recipient(&self) -> &Recipient {
        &self.to
    }
}

fn take_some(state: &mut State, max_bytes: usize) -> Vec<Event> {
    let (mut taken, mut bytes) = (Vec::new(), 0_usize);
    while let Some(next) = state.waiting.front() {
        bytes = bytes.saturating_add(next.value().len());
        if !taken.is_empty() && bytes > max_bytes {
            break;
        }
        let Some(event) = state.waiting.pop_front() else { break };
        state.fates.insert(event.id(), Fate::Sent);
        taken.push(event);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(in_flight: usize) -> Delivery {
        let to = Recipient::new("peer.chat", "s1").unwrap();
        Delivery::new(to, Arc::default(), NonZeroUsize::new(in_flight).unwrap(), CancellationToken::new())
    }

    fn events(count: usize) -> Vec<Event> {
        (0..count).map(|n| Event::new(n.to_string()).with_id(*EventId::mint().as_uuid())).collect()
    }

    async fn take(delivery: &Delivery, max_bytes: usize) -> Option<Vec<Event>> {
        delivery.ready().await?;
        delivery.take_now(max_bytes)
    }

    fn ids(events: &[Event]) -> Vec<EventId> {
        events.iter().map(Event::id).collect()
    }

    #[tokio::test]
    async fn exactly_what_was_acknowledged_is_consumed() {
        let (delivery, events) = (delivery(10), events(3));
        assert!(delivery.offer(&events).is_empty());
        let taken = take(&delivery, 1_000).await.unwrap();
        assert_eq!(ids(&taken), ids(&events));
        assert!(delivery.offer(&events).is_empty(), "nothing is acknowledged, and nothing is sent twice");
        delivery.acknowledge(ids(&events[..2]));
        assert_eq!(delivery.offer(&events), ids(&events[..2]));
        assert_eq!(delivery.offer(&events), ids(&events[..2]), "the turn lost its race: the next one consumes them");
        assert!(delivery.offer(&events[2..]).is_empty());
        assert!(!delivery.is_idle());
        delivery.acknowledge([events[2].id()]);
        assert_eq!(delivery.offer(&events[2..]), ids(&events[2..]));
    }

    #[tokio::test]
    async fn the_oldest_event_is_one_that_is_not_known_to_be_consumed() {
        let (delivery, events) = (delivery(2), events(3));
        assert_eq!(delivery.oldest(), None);
        delivery.offer(&events);
        delivery.acknowledge(ids(&events[..1]));
        assert_eq!(delivery.oldest(), Some(events[0].id()), "it is acknowledged, and no turn has consumed it");
        delivery.offer(&events[1..]);
        assert_eq!(delivery.oldest(), Some(events[1].id()));
    }

    #[tokio::test]
    async fn the_window_bounds_what_is_in_memory() {
        let (delivery, events) = (delivery(2), events(4));
        delivery.offer(&events);
        assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[..2]));
        delivery.acknowledge([events[0].id()]);
        assert_eq!(delivery.offer(&events), ids(&events[..1]));
        assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[2..3]));
    }

    #[tokio::test]
    async fn a_failed_batch_is_sent_again_first_and_in_order() {
        let (delivery, events) = (delivery(10), events(4));
        delivery.offer(&events[..3]);
        let taken = take(&delivery, 2).await.unwrap();
        assert_eq!(ids(&taken), ids(&events[..2]), "as many as fit");
        delivery.put_back(taken);
        delivery.offer(&events);
        assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events));
    }

    #[tokio::test]
    async fn what_an_operator_took_away_is_sent_no_more() {
        let (delivery, events) = (delivery(10), events(3));
        delivery.offer(&events);
        delivery.offer(&events[1..]);
        assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[1..]));
    }

    #[tokio::test]
    async fn a_closing_stream_sends_what_waits_and_ends() {
        let (delivery, events) = (delivery(10), events(1));
        delivery.offer(&events);
        delivery.close();
        assert!(take(&delivery, 10).await.is_some());
        assert!(take(&delivery, 10).await.is_none());
    }
}
