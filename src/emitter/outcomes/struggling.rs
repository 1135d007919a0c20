//! Messages that the server refuses repeatedly, for the health report.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::from_now;
use crate::store::OutboxKey;

/// Attempts after which health reports a message that the server refuses for its own sake.
pub const STRUGGLES_AFTER: i32 = 5;

/// Most messages that are remembered. Further ones are not reported.
const MAX_REMEMBERED: usize = 1_000;

/// Time after its next attempt for which a message without news is still reported.
const LINGER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Struggling(Mutex<HashMap<OutboxKey, Refused>>);

#[derive(Debug)]
struct Refused {
    attempts: i32,
    code: String,
    until: Instant,
}

impl Struggling {
    fn lock(&self) -> MutexGuard<'_, HashMap<OutboxKey, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message that was refused for its own sake, and whose next attempt is after `delay`.
    pub(crate) fn note(&self, key: OutboxKey, attempts: i32, code: &str, delay: Duration) {
        let mut refused = self.lock();
        if attempts < STRUGGLES_AFTER || (refused.len() >= MAX_REMEMBERED && !refused.contains_key(&key)) {
            return;
        }
        let until = from_now(delay.saturating_add(LINGER));
        refused.insert(key, Refused { attempts, code: code.to_owned(), until });
    }

    /// Forgets a message that left the outbox.
    pub(crate) fn forget(&self, key: OutboxKey) {
        self.lock().remove(&key);
    }

    /// Returns a sentence about the refused messages.
    pub(crate) fn problem(&self) -> Option<String> {
        let mut refused = self.lock();
        let now = Instant::now();
        refused.retain(|_, refused| refused.until > now);
        let worst = refused.values().max_by_key(|refused| refused.attempts)?;
        let (count, attempts, code) = (refused.len(), worst.attempts, &worst.code);
        Some(format!("{count} messages are refused again and again: {attempts} attempts of one, the last with {code}"))
    }
}
