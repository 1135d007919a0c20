//! Rows that this process took and whose outcomes are not written.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::store::OutboxKey;

/// Most rows that are remembered. Further ones are missing in the count.
const MAX_REMEMBERED: usize = 100_000;

/// The rows by their keys, each until its claim ends: after that any process may take the row.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(Mutex<HashMap<OutboxKey, Instant>>);

impl Unsettled {
    fn lock(&self) -> MutexGuard<'_, HashMap<OutboxKey, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a row without a written outcome.
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

    /// Forgets a row that this process takes again.
    pub(crate) fn forget(&self, key: OutboxKey) {
        self.lock().remove(&key);
    }

    /// Returns the number of noted rows whose claims last.
    pub(crate) fn count(&self) -> usize {
        let now = Instant::now();
        self.lock().values().filter(|until| **until > now).count()
    }
}
