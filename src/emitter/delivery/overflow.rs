//! New rows whose messages found no place in the queue of the client. They wait in memory for a place, because a row
//! that is claimed again costs more than its first insert and its deletion together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chip::client::breaker::BreakerState;
use crate::clock::from_now;
use crate::emitter::delivery::handoff::{Handoff, Handover};
use crate::emitter::delivery::signals::Signals;
use crate::heartbeat::Beat;
use crate::outbox::row::{FIRST_CLAIM, Stored};
use crate::room::{Place, Room};
use crate::store::{Backend, OutboxKey, Reschedule, answered, hold};

/// Most rows that wait in memory. Further rows are released at once.
const MAX_WAITING: usize = 10_000;

/// Longest wait of a row for a place in the queue. After it the row is released.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Time between two checks for a place.
const PLACE_POLL: Duration = Duration::from_millis(1);

/// Most rows that wait for their release. Further rows become due when their claims end.
const MAX_RELEASES: usize = 10_000;

/// Rows that wait for a place in the queue of the client, and the loop that sends them. Releases the rows that wait
/// too long: gives up their claims, so that a host claims them when it has room.
pub(crate) struct Overflow<B: Backend> {
    pool: Pool<B>,
    handoff: Arc<Handoff>,
    signals: Arc<Signals>,
    rows: Mutex<Rows>,
    room: Room,
    arrived: Notify,
}

#[derive(Default)]
struct Rows {
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    to_release: Vec<OutboxKey>,
}

struct Waiting {
    stored: Stored,
    until: Instant,
    _place: Place,
}

impl Rows {
    fn release(&mut self, key: OutboxKey) {
        if self.to_release.len() < MAX_RELEASES {
            self.to_release.push(key);
        }
    }
}

impl<B: Backend> Overflow<B> {
    pub(crate) fn new(pool: Pool<B>, handoff: Arc<Handoff>, signals: Arc<Signals>) -> Self {
        let (rows, room, arrived) = (Mutex::default(), Room::new(), Notify::new());
        Overflow { pool, handoff, signals, rows, room, arrived }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a row, or lets it wait behind those that wait already.
    pub(crate) fn deliver(&self, stored: Stored) -> Handover {
        let key = stored.key;
        if self.lock().waiting.is_empty() && self.handoff.has_place(&stored) {
            let handover = self.handoff.deliver(stored);
            if handover == Handover::LeftWaiting {
                // Others took the place in between.
                self.lock().release(key);
                self.arrived.notify_one();
            }
            return handover;
        }
        if self.handoff.is_paused(&stored) {
            return Handover::Paused;
        }
        self.handoff.note_full(&stored);
        let place = self.room.try_take(stored.event.encoded_len());
        let mut rows = self.lock();
        match place {
            Some(place) if rows.waiting.len() < MAX_WAITING => {
                rows.waiting.push_back(Waiting { stored, until: from_now(MAX_WAIT), _place: place });
            }
            _ => rows.release(key),
        }
        drop(rows);
        self.arrived.notify_one();
        Handover::LeftWaiting
    }

    /// Sends and releases rows until the emitter stops, and then releases those that still wait. Rows that come during
    /// a statement share the next one.
    pub(crate) async fn run(self: Arc<Self>, beat: Beat) {
        let stopping = &self.signals.stopping;
        while !stopping.is_cancelled() {
            tokio::select! {
                () = stopping.cancelled() => break,
                () = self.arrived.notified() => {}
            }
            let busy = beat.busy();
            while self.send_waiting() && !stopping.is_cancelled() {
                beat.beat();
                self.release(self.take_to_release()).await;
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = tokio::time::sleep(PLACE_POLL) => {}
                }
            }
            self.release(self.take_to_release()).await;
            drop(busy);
        }
        self.stop_waiting();
        self.release(self.take_to_release()).await;
    }

    /// Lets no row wait any longer.
    fn stop_waiting(&self) {
        let mut rows = self.lock();
        while let Some(waiting) = rows.waiting.pop_front() {
            rows.release(waiting.stored.key);
        }
    }

    /// Sends the rows that find a place now. Returns whether rows still wait.
    fn send_waiting(&self) -> bool {
        let now = Instant::now();
        loop {
            let mut rows = self.lock();
            let Some(first) = rows.waiting.pop_front() else { return false };
            let key = first.stored.key;
            if self.handoff.has_place(&first.stored) {
                drop(rows);
                if self.handoff.deliver(first.stored) == Handover::LeftWaiting {
                    self.lock().release(key);
                }
            } else if first.until <= now {
                rows.release(key);
            } else {
                rows.waiting.push_front(first);
                return true;
            }
        }
    }

    fn take_to_release(&self) -> Vec<OutboxKey> {
        std::mem::take(&mut self.lock().to_release)
    }

    /// Gives up the first claims of rows, so that they are due at once. While the breaker is not closed nothing is
    /// sent, and the claims stay.
    pub(crate) async fn release(&self, mut keys: Vec<OutboxKey>) {
        if keys.is_empty() || self.handoff.client.breaker_state() != BreakerState::Closed {
            return;
        }
        keys.sort_unstable();
        let released: Vec<_> = keys.into_iter().map(|key| due_now(key, FIRST_CLAIM)).collect();
        let statement =
            answered(&self.pool, async { B::reschedule_outbox(&mut *hold(&self.pool).await?, &released).await });
        self.handoff.context.statement("reschedule", statement).await;
        self.signals.retransmit.notify_one();
    }
}

/// Makes a row due at once that found no place in the queue of the client.
pub(crate) fn due_now(key: OutboxKey, attempts: i32) -> Reschedule {
    let (code, error) = ("message buffer is full".to_owned(), String::new());
    Reschedule { key, attempts, delay_us: 0, code, error }
}
