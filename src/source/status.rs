//! The state of a partition in this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::commit::Key;
use super::error::SourceError;
use super::metrics::SourceMetrics;
use crate::text::{Chain, fit};

/// Largest number of bytes of an error in a status.
pub const MAX_ERROR_BYTES: usize = 2_048;

/// Failures in a row from which on health reports a partition.
const REPORTED_AFTER: u32 = 2;

/// A partition that this process reads, as [`Sources::status`](super::Sources::status) returns it.
///
/// # Examples
///
/// See [`Sources`](super::Sources).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Name of the source.
    pub source: String,
    /// Name of the partition.
    pub partition: String,
    /// Whether it goes on.
    pub state: PartitionState,
    /// Checkpoint, as far as this process knows it. `None` at the start of the partition.
    pub position: Option<String>,
    /// Distance to the end of the partition, in a unit of the source's own. `None` when the source does not tell it.
    pub lag: Option<u64>,
    /// Events that this process has emitted, with those that were there already.
    pub events: u64,
    /// Events that were there already, by their names.
    pub duplicates: u64,
    /// Rounds that this process has committed.
    pub rounds: u64,
    /// Times that this process found the checkpoint moved by another process or an operator, and began anew.
    pub overtaken: u64,
    /// Failures of this process.
    pub failures: u64,
    /// Last error, until the partition goes on, cut to [`MAX_ERROR_BYTES`].
    pub error: Option<String>,
}

/// Whether a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartitionState {
    /// It is read.
    Reading,
    /// The last attempt failed, and it is tried again after a pause.
    Failing,
}

/// What this process knows of a partition.
#[derive(Debug)]
pub(super) struct Progress {
    known: Mutex<Known>,
    metrics: SourceMetrics,
}

#[derive(Debug)]
struct Known {
    status: PartitionStatus,
    failures_in_a_row: u32,
}

impl Progress {
    pub(super) fn new(key: &Key, metrics: SourceMetrics) -> Self {
        let status = PartitionStatus {
            source: key.name.clone(),
            partition: key.partition.clone(),
            state: PartitionState::Reading,
            position: None,
            lag: None,
            events: 0,
            duplicates: 0,
            rounds: 0,
            overtaken: 0,
            failures: 0,
            error: None,
        };
        Progress { known: Mutex::new(Known { status, failures_in_a_row: 0 }), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> PartitionStatus {
        self.lock().status.clone()
    }

    pub(super) fn rounds(&self) -> u64 {
        self.lock().status.rounds
    }

    pub(super) fn stands_at(&self, position: Option<&str>) {
        self.lock().status.position = position.map(str::to_owned);
    }

    pub(super) fn behind(&self, lag: Option<u64>) {
        if let Some(lag) = lag {
            let mut known = self.lock();
            known.status.lag = Some(lag);
            self.metrics.lag(&known.status.partition, lag);
        }
    }

    /// Notes a committed round.
    pub(super) fn committed(&self, to: &str, events: usize, duplicates: usize, lag: Option<u64>) {
        {
            let status = &mut self.lock().status;
            status.position = Some(to.to_owned());
            status.events += events as u64;
            status.duplicates += duplicates as u64;
            status.rounds += 1;
        }
        self.metrics.committed(events);
        self.behind(lag);
    }

    /// Notes that the partition goes on.
    pub(super) fn is_well(&self) {
        let mut known = self.lock();
        known.failures_in_a_row = 0;
        known.status.state = PartitionState::Reading;
        known.status.error = None;
    }

    /// Notes that others moved the checkpoint.
    pub(super) fn overtaken(&self) {
        self.lock().status.overtaken += 1;
        self.metrics.overtaken();
    }

    /// Notes a failure, and returns their number in a row.
    pub(super) fn failed(&self, error: &SourceError) -> u32 {
        let text = fit(&Chain(error).to_string(), MAX_ERROR_BYTES);
        let mut known = self.lock();
        let Known { status, failures_in_a_row } = &mut *known;
        if status.error.as_ref() == Some(&text) {
            tracing::debug!(source = status.source, partition = status.partition, error = text, "still failing");
        } else {
            tracing::warn!(source = status.source, partition = status.partition, error = text, "a partition fails");
        }
        *failures_in_a_row = failures_in_a_row.saturating_add(1);
        status.failures += 1;
        status.state = PartitionState::Failing;
        status.error = Some(text);
        self.metrics.failed();
        *failures_in_a_row
    }

    /// Returns what health says of the partition.
    pub(super) fn problem(&self) -> Option<String> {
        let known = self.lock();
        known.status.error.clone().filter(|_| known.failures_in_a_row >= REPORTED_AFTER)
    }
}
