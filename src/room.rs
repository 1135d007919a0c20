//! The room of a queue, in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Largest number of bytes of messages in each queue of an emitter.
///
/// The queues are the batch client's with its requests in flight, the rows that wait for a place in it, the queue of
/// inserts, and the queue of `DurableEmitter::publish_async`. Each also has a largest number of messages.
///
/// A queue that is full in bytes behaves as a queue that is full in messages. An empty queue takes a larger message
/// too.
pub const MAX_QUEUE_BYTES: usize = 64 << 20;

/// Number of bytes of one permit, so that the number of permits fits into a semaphore.
const UNIT: usize = 64;

const UNITS: usize = MAX_QUEUE_BYTES / UNIT;

/// The bytes that a queue still has room for.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// The place of an event, until it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Room {
    pub(crate) fn new() -> Self {
        Room(Arc::new(Semaphore::new(UNITS)))
    }

    /// Takes the place of a number of bytes, if there is room now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Place> {
        Arc::clone(&self.0).try_acquire_many_owned(units(bytes)).ok()
    }

    /// Takes the place of a number of bytes, and waits for room until the given time.
    pub(crate) async fn take(&self, bytes: usize, until: Instant) -> Option<Place> {
        timeout_at(until, Arc::clone(&self.0).acquire_many_owned(units(bytes))).await.ok()?.ok()
    }

    /// Returns the number of free bytes.
    pub(crate) fn free(&self) -> usize {
        self.0.available_permits() * UNIT
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).clamp(1, UNITS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_holds_so_many_bytes_or_one_larger_event() {
        let room = Room::new();
        let half = room.try_take(MAX_QUEUE_BYTES / 2).unwrap();
        assert!(room.try_take(MAX_QUEUE_BYTES).is_none());
        assert_eq!(room.free(), MAX_QUEUE_BYTES / 2);
        drop(half);
        let _larger = room.try_take(10 * MAX_QUEUE_BYTES).unwrap();
        assert_eq!(room.free(), 0);
        assert!(room.try_take(0).is_none());
    }
}
