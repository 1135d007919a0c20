//! The times of events in W4: when a sender sent them, and when a turn committed.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Send times and latencies of events. All processes use the machine's clock, so they agree.
#[derive(Debug, Default)]
pub(crate) struct Stamps(Mutex<Vec<Stamp>>);

/// The send time of an event in microseconds since 1970, and its latency in microseconds.
pub(crate) type Stamp = (u64, u64);

impl Stamps {
    /// Reads the send time from an event's value.
    pub(crate) fn sent_at(value: &[u8]) -> Option<u64> {
        value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Records now as the commit time of the events sent at these times.
    pub(crate) fn committed(&self, sent: &[u64]) {
        let now = now_us();
        let stamps = sent.iter().map(|sent| (*sent, now.saturating_sub(*sent)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(stamps);
    }

    /// Takes the recorded stamps.
    pub(crate) fn take(&self) -> Vec<Stamp> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of recorded stamps.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Returns the time of the machine in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
