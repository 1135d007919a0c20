//! Counts since the start.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::chip::answer::outcome::{RetryClass, SendError};

/// Counts of an emitter since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that `publish` stored.
    pub published: u64,
    /// Events that the server took at the first attempt of this process.
    pub sent_fresh: u64,
    /// Events that the server took after a later claim.
    pub sent_again: u64,
    /// Attempts that failed, for any reason.
    pub failed_attempts: u64,
    /// Rows that left the outbox after their delivery. Fewer than the events sent: some were sent twice, and some
    /// deletes are yet to come.
    pub delivered: u64,
    /// Rows that wait for another attempt.
    pub rescheduled: u64,
    /// Rows that became dead letters.
    pub dead_lettered: u64,
    /// Rows that expired into dead letters.
    pub expired: u64,
    /// Rows that found the queue of the client full, and waited for room.
    pub left_waiting: u64,
    /// Messages that `publish_async` dropped.
    pub async_dropped: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    published: AtomicU64,
    sent_fresh: AtomicU64,
    sent_again: AtomicU64,
    failed_attempts: AtomicU64,
    delivered: AtomicU64,
    rescheduled: AtomicU64,
    dead_lettered: AtomicU64,
    expired: AtomicU64,
    left_waiting: AtomicU64,
    async_dropped: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            published: read(&self.published),
            sent_fresh: read(&self.sent_fresh),
            sent_again: read(&self.sent_again),
            failed_attempts: read(&self.failed_attempts),
            delivered: read(&self.delivered),
            rescheduled: read(&self.rescheduled),
            dead_lettered: read(&self.dead_lettered),
            expired: read(&self.expired),
            left_waiting: read(&self.left_waiting),
            async_dropped: read(&self.async_dropped),
        }
    }

    /// Messages whose fate the server decided.
    pub(crate) fn answered(&self) -> u64 {
        [&self.sent_fresh, &self.sent_again, &self.failed_attempts]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    pub(crate) fn published(&self) {
        add(&self.published, 1);
    }

    pub(crate) fn sent(&self, again: bool, error: Option<&SendError>) {
        match error {
            None if again => add(&self.sent_again, 1),
            None => add(&self.sent_fresh, 1),
            Some(error) if error.class(false) == RetryClass::NotTried => {}
            Some(_) => add(&self.failed_attempts, 1),
        }
    }

    pub(crate) fn delivered(&self, rows: u64) {
        add(&self.delivered, rows);
    }

    pub(crate) fn rescheduled(&self, rows: u64) {
        add(&self.rescheduled, rows);
    }

    pub(crate) fn dead_lettered(&self, rows: u64) {
        add(&self.dead_lettered, rows);
    }

    pub(crate) fn expired(&self, rows: u64) {
        add(&self.expired, rows);
    }

    pub(crate) fn left_waiting(&self) {
        add(&self.left_waiting, 1);
    }

    pub(crate) fn async_dropped(&self) {
        add(&self.async_dropped, 1);
    }
}
