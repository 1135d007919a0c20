//! Rows in flight: admitted to be sent, and without a written outcome.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::emitter::config::Config;
use crate::emitter::metrics::{SendPhase, SourceType};
use crate::emitter::outcomes::unsettled::Unsettled;
use crate::store::OutboxKey;

/// Rows in flight. The number of places bounds every queue behind the admission, so that none of them can overflow.
pub(crate) struct InFlight {
    places: Arc<Semaphore>,
    capacity: usize,
    keys: Mutex<HashSet<OutboxKey>>,
    unsettled: Unsettled,
}

/// Result of an admission.
pub(crate) enum Admission {
    /// The row may be sent.
    Admitted(Delivery),
    /// The row is in flight already.
    InFlight,
    /// All places are taken.
    Full,
}

/// A row in flight. Dropping it leaves the row as it is.
pub(crate) struct Delivery {
    pub(crate) key: OutboxKey,
    pub(crate) attempts: i32,
    pub(crate) phase: SendPhase,
    pub(crate) pair: SourceType,
    pub(crate) claimed_until: Instant,
    /// Whether the outcome is in the database.
    pub(crate) written: bool,
    in_flight: Arc<InFlight>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.written {
            self.in_flight.unsettled.note(self.key, self.claimed_until);
        }
        self.in_flight.keys().remove(&self.key);
    }
}

impl InFlight {
    /// Makes places for the queue of the client, the requests in flight and the outcomes that wait.
    pub(crate) fn new(config: &Config) -> Self {
        let batch = &config.batch;
        let sending = batch.message_buffer.get() + batch.batch_size.get() * (batch.max_concurrent_sends.get() + 1);
        let capacity = sending + (config.delete_batch_size * 200).clamp(10_000, 200_000);
        InFlight {
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            keys: Mutex::new(HashSet::new()),
            unsettled: Unsettled::default(),
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<OutboxKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a row that is about to be sent, unless the row is in flight already.
    pub(crate) fn admit(
        self: &Arc<Self>,
        (key, attempts): (OutboxKey, i32),
        claimed_until: Instant,
        phase: SendPhase,
        pair: &SourceType,
    ) -> Admission {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Admission::Full };
        if !self.keys().insert(key) {
            return Admission::InFlight;
        }
        self.unsettled.forget(key);
        let (pair, in_flight) = (pair.clone(), Arc::clone(self));
        let delivery = Delivery { key, attempts, phase, pair, claimed_until, written: false, in_flight, _place: place };
        Admission::Admitted(delivery)
    }

    /// Returns the number of places.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of free places.
    pub(crate) fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Returns the number of rows in flight.
    pub(crate) fn count(&self) -> usize {
        self.keys().len()
    }

    /// Returns the number of rows that this process took and whose outcomes are not written, while their claims last.
    pub(crate) fn left(&self) -> usize {
        self.count() + self.unsettled.count()
    }
}
