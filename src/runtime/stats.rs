//! Counts since the start, for reports and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::eventbox::Turn;

/// Counts of a runtime since its start, of this process alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeStats {
    /// Turns that committed, in rounds or alone.
    pub turns: u64,
    /// Rounds that were decided and written.
    pub rounds: u64,
    /// Events that were consumed.
    pub consumed: u64,
    /// Events that were removed as garbage.
    pub garbage: u64,
    /// Events that went to quarantine because they made every batch fail.
    pub quarantined: u64,
    /// Number of times another writer came first.
    pub contention: u64,
    /// Turns that failed and were retried later.
    pub failures: u64,
    /// Recipients with events that the rates of their kinds hold now: see
    /// [`RuntimeBuilder::rates`](crate::runtime::RuntimeBuilder::rates).
    pub held_by_rates: u64,
}

/// The counts as they grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    turns: AtomicU64,
    rounds: AtomicU64,
    consumed: AtomicU64,
    garbage: AtomicU64,
    quarantined: AtomicU64,
    contention: AtomicU64,
    failures: AtomicU64,
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn snapshot(&self) -> RuntimeStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RuntimeStats {
            turns: read(&self.turns),
            rounds: read(&self.rounds),
            consumed: read(&self.consumed),
            garbage: read(&self.garbage),
            quarantined: read(&self.quarantined),
            contention: read(&self.contention),
            failures: read(&self.failures),
            held_by_rates: 0,
        }
    }

    pub(super) fn round(&self) {
        add(&self.rounds, 1);
    }

    /// Counts a turn, also one without an effect.
    pub(super) fn turn(&self, turn: &Turn) {
        add(&self.turns, usize::from(turn.number.is_some()));
        add(&self.consumed, turn.consumed);
        add(&self.garbage, turn.garbage);
        add(&self.quarantined, turn.quarantined);
        add(&self.contention, turn.contention);
    }

    pub(super) fn contention(&self, count: usize) {
        add(&self.contention, count);
    }

    pub(super) fn failure(&self) {
        add(&self.failures, 1);
    }
}
