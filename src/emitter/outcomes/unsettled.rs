//! Rows that were taken and whose fate the database does not know.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::store::OutboxKey;

/// The most rows that are remembered; of more, a report says too few.
const MAX_REMEMBERED: usize = 100_000;

/// The rows by their keys, each until its claim is over: then it is no longer of this process.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(Mutex<HashMap<OutboxKey, Instant>>);

impl Unsettled {
    fn lock(&self) -> MutexGuard<'_, HashMap<OutboxKey, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, key: OutboxKey, claimed_until: Instant) {
        let mut rows = self.lock();
        if rows.len() >= MAX_REMEMBERED {
            let now = Instant::now();
            rows.retain(|_, until| *until > now);
        }
        if rows.len() < MAX_REMEMBERED {
            rows.insert(key, claimed_until);
        }
    }

    /// The row is taken again.
    pub(crate) fn forget(&self, key: OutboxKey) {
        self.lock().remove(&key);
    }

    /// Returns the number of rows that this process still has.
    pub(crate) fn count(&self) -> usize {
        let now = Instant::now();
        self.lock().values().filter(|until| **until > now).count()
    }
}
