//! What a stream has to send, between the eventbox and the connection.
//!
//! A turn of the stream lists the oldest events of its box, and offers them here. The connection sends them and
//! acknowledges; a later turn consumes exactly what was acknowledged. So a crash loses nothing, and at most sends again
//! what was not consumed.
//!
//! Acknowledged events wait a little for others, as TCP delays an acknowledgement. So a stream that sends many events
//! a second has few turns that write.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::runtime::Attended;

/// Longest wait of an acknowledged event for others that a turn consumes with it.
const CONSUME_DELAY: Duration = Duration::from_millis(25);

/// State of an event that a turn has offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
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

/// The events of one open stream.
#[derive(Debug)]
pub(in crate::peer) struct Delivery {
    to: Recipient,
    attended: Arc<Attended>,
    in_flight: usize,
    state: Arc<Mutex<State>>,
    changed: Notify,
    /// The stream ends for the connection, once nothing waits.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    fates: HashMap<EventId, Fate>,
    /// Number of events that are acknowledged.
    acknowledged: usize,
    /// Time at which a turn consumes them.
    due: Option<Instant>,
    /// Whether a turn for them is going to be asked for.
    asks_soon: bool,
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
        Delivery { to, attended, in_flight: in_flight.get(), state: Arc::default(), changed: Notify::new(), closing }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock_of(&self.state)
    }

    /// Takes the oldest events of the box, listed from the start. Returns those that the turn consumes.
    pub(in crate::peer) fn offer(&self, events: &[Event]) -> Vec<EventId> {
        let mut state = self.lock();
        state.forget_gone(events);
        let is_time =
            self.is_closed() || self.is_half_full(&state) || state.due.is_some_and(|due| due <= Instant::now());
        let mut room = self.in_flight.saturating_sub(state.unsettled());
        let (mut consumed, mut is_new) = (Vec::new(), false);
        for event in events {
            match state.fates.get(&event.id()) {
                Some(Fate::Acknowledged) if is_time => {
                    state.fates.insert(event.id(), Fate::Consumed);
                    state.acknowledged = state.acknowledged.saturating_sub(1);
                    consumed.push(event.id());
                }
                Some(Fate::Consumed) => consumed.push(event.id()),
                Some(Fate::Acknowledged | Fate::Waiting | Fate::Sent | Fate::Refused) => {}
                None if room > 0 => {
                    room -= 1;
                    is_new = true;
                    state.fates.insert(event.id(), Fate::Waiting);
                    state.waiting.push_back(event.clone());
                }
                None => {}
            }
        }
        if state.acknowledged == 0 {
            state.due = None;
        }
        drop(state);
        if is_new {
            self.changed.notify_one();
        }
        consumed
    }

    /// Returns whether the acknowledged events fill half of the window.
    fn is_half_full(&self, state: &State) -> bool {
        2 * state.acknowledged >= self.in_flight
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

    /// Notes that the other side has events. A turn consumes them within [`CONSUME_DELAY`], and at once when they fill
    /// half of the window, or when the stream ends.
    pub(super) fn acknowledge(&self, ids: impl IntoIterator<Item = EventId>) {
        let mut state = self.lock();
        for id in ids {
            if state.fates.insert(id, Fate::Acknowledged) != Some(Fate::Acknowledged) {
                state.acknowledged += 1;
            }
        }
        state.due.get_or_insert_with(|| Instant::now() + CONSUME_DELAY);
        if self.is_half_full(&state) || self.is_closed() {
            drop(state);
            return self.attended.wake(&self.to);
        }
        if !std::mem::replace(&mut state.asks_soon, true) {
            drop(state);
            self.ask_soon();
        }
    }

    /// Asks for a turn when the acknowledged events are due, or at the end of the stream, unless a turn has consumed
    /// them by then.
    fn ask_soon(&self) {
        let (state, attended, to) = (Arc::clone(&self.state), Arc::clone(&self.attended), self.to.clone());
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let due = lock_of(&state).due.unwrap_or_else(Instant::now);
            // Either way it is time.
            let _ = timeout_at(due, closing.cancelled()).await;
            let mut state = lock_of(&state);
            state.asks_soon = false;
            let is_needed = state.acknowledged > 0;
            drop(state);
            if is_needed {
                attended.wake(&to);
            }
        });
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
        let has = |fate: &Fate| matches!(fate, Fate::Acknowledged | Fate::Consumed);
        state.fates.iter().filter(|(_, fate)| has(fate)).map(|(id, _)| *id).max()
    }

    /// The eventbox of the stream.
    pub(in crate::peer) fn recipient(&self) -> &Recipient {
        &self.to
    }
}

fn lock_of(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
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
mod tests;
