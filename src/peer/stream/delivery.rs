//! What a stream has to send, between the eventbox and the connection.
//!
//! A turn of the stream lists the oldest events of its box, and offers them here. The connection sends them and
//! acknowledges; a later turn consumes exactly what was acknowledged. So a crash loses nothing, and at most sends again
//! what was not consumed.
//!
//! Acknowledged events wait a little for others, as TCP delays an acknowledgement. So a stream that sends many events
//! a second has few turns that write.

mod state;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::state::{Fate, State};
use crate::eventbox::{Event, EventId};
use crate::recipient::Recipient;
use crate::runtime::Attended;

/// Longest wait of an acknowledged event for others that a turn consumes with it.
const CONSUME_DELAY: Duration = Duration::from_millis(25);

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
        let taken = self.lock().take_some(max_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventbox::WakeUps;

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

    #[tokio::test(start_paused = true)]
    async fn exactly_what_was_acknowledged_is_consumed() {
        let (delivery, events) = (delivery(10), events(3));
        assert!(delivery.offer(&events).is_empty());
        let taken = take(&delivery, 1_000).await.unwrap();
        assert_eq!(ids(&taken), ids(&events));
        assert!(delivery.offer(&events).is_empty(), "nothing is acknowledged, and nothing is sent twice");
        delivery.acknowledge(ids(&events[..2]));
        tokio::time::sleep(CONSUME_DELAY).await;
        assert_eq!(delivery.offer(&events), ids(&events[..2]));
        assert_eq!(delivery.offer(&events), ids(&events[..2]), "the turn lost its race: the next one consumes them");
        assert!(delivery.offer(&events[2..]).is_empty());
        assert!(!delivery.is_idle());
        delivery.acknowledge([events[2].id()]);
        tokio::time::sleep(CONSUME_DELAY).await;
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

    /// Returns whether a turn was asked for since the last question.
    fn was_asked(wake_ups: &WakeUps) -> bool {
        !wake_ups.take().is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledged_events_are_consumed_together() {
        let (delivery, events) = (delivery(10), events(8));
        let wake_ups = Arc::<WakeUps>::default();
        delivery.attended.is_run_by(&wake_ups);
        delivery.offer(&events[..3]);
        delivery.acknowledge(ids(&events[..1]));
        tokio::time::sleep(CONSUME_DELAY / 2).await;
        assert!(delivery.offer(&events[..3]).is_empty(), "others may be acknowledged soon");
        delivery.acknowledge(ids(&events[1..2]));
        assert!(!was_asked(&wake_ups));
        tokio::time::sleep(CONSUME_DELAY * 3 / 4).await;
        assert!(was_asked(&wake_ups), "the first of them has waited for long");
        assert_eq!(delivery.offer(&events[..3]), ids(&events[..2]));
        tokio::time::sleep(2 * CONSUME_DELAY).await;
        assert!(!was_asked(&wake_ups), "nothing is left to consume");

        delivery.offer(&events[2..]);
        delivery.acknowledge(ids(&events[2..6]));
        assert!(!was_asked(&wake_ups), "less than a half of the window");
        delivery.acknowledge(ids(&events[6..7]));
        assert!(was_asked(&wake_ups), "the window must not fill up");
        assert_eq!(delivery.offer(&events[2..]), ids(&events[2..7]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_stream_does_not_wait_for_another_event() {
        for is_closed_first in [false, true] {
            let (delivery, events) = (delivery(10), events(1));
            let wake_ups = Arc::<WakeUps>::default();
            delivery.attended.is_run_by(&wake_ups);
            delivery.offer(&events);
            let began = tokio::time::Instant::now();
            if is_closed_first {
                delivery.close();
                delivery.acknowledge(ids(&events));
            } else {
                delivery.acknowledge(ids(&events));
                delivery.close();
                wake_ups.wait().await;
            }
            assert!(was_asked(&wake_ups));
            assert_eq!(tokio::time::Instant::now(), began);
        }
    }

    #[tokio::test]
    async fn the_window_bounds_what_is_in_memory() {
        let (delivery, events) = (delivery(2), events(4));
        delivery.offer(&events);
        assert_eq!(ids(&take(&delivery, 1_000).await.unwrap()), ids(&events[..2]));
        delivery.acknowledge([events[0].id()]);
        assert_eq!(delivery.offer(&events), ids(&events[..1]), "it is half of the window");
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
