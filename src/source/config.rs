//! The settings of a source.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::contract::Room;
use super::error::SourceError;
use crate::eventbox::{MAX_EMIT_BYTES, MAX_EMIT_EVENTS};

/// Largest number of bytes of the name of a source.
pub const MAX_SOURCE_NAME_BYTES: usize = 64;

/// Settings of a source.
///
/// # Examples
///
/// ```
/// use eventbox::source::SourceConfig;
///
/// let mut config = SourceConfig::default();
/// config.max_events = 100.try_into()?;
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceConfig {
    /// Most events of a round, 1 to [`MAX_EMIT_EVENTS`](crate::limits::MAX_EMIT_EVENTS). A reader may return more
    /// when its source cannot be cut there.
    pub max_events: NonZeroUsize,
    /// Most bytes of the values of a round, 1 to [`MAX_EMIT_BYTES`](crate::limits::MAX_EMIT_BYTES). A partition has at
    /// most one round in its commit and one that is read, so it holds twice this, and the largest event.
    pub max_bytes: NonZeroUsize,
    /// Pause after a page without events.
    pub poll_interval: Duration,
    /// Time between two questions for the partitions of the source.
    pub partition_interval: Duration,
    /// Time after which a partition without a commit compares its checkpoint, and again after each further such time. A
    /// reader that waits for events is ended when an operator or another process has moved the checkpoint.
    pub checkpoint_interval: Duration,
    /// Longest wait for the answer of [`EventSource::partitions`](super::EventSource::partitions). The wait then counts
    /// as a failure.
    pub partitions_limit: Duration,
    /// Longest wait for the answer of [`EventSource::open`](super::EventSource::open). The wait then counts as a
    /// failure of the partition.
    pub open_limit: Duration,
    /// Longest wait for the answer of [`EventSource::committed`](super::EventSource::committed). The wait then counts
    /// as a failure of the partition, whose round stays committed.
    pub committed_limit: Duration,
    /// First pause after a failure of a partition, or of the question for the partitions. It doubles with each failure
    /// in a row, minus a random half.
    pub retry_base: Duration,
    /// Longest pause after a failure.
    pub retry_cap: Duration,
}

impl Default for SourceConfig {
    fn default() -> Self {
        SourceConfig {
            max_events: NonZeroUsize::new(1_000).unwrap_or(NonZeroUsize::MIN),
            max_bytes: NonZeroUsize::new(4 << 20).unwrap_or(NonZeroUsize::MIN),
            poll_interval: Duration::from_millis(100),
            partition_interval: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(5),
            partitions_limit: Duration::from_secs(30),
            open_limit: Duration::from_secs(30),
            committed_limit: Duration::from_secs(30),
            retry_base: Duration::from_millis(200),
            retry_cap: Duration::from_secs(30),
        }
    }
}

impl SourceConfig {
    pub(super) fn room(&self) -> Room {
        Room { events: self.max_events.get(), bytes: self.max_bytes.get() }
    }

    /// Refuses a name or a setting that cannot work.
    pub(super) fn check(&self, name: &str) -> Result<(), SourceError> {
        let wrong = |problem: String| Err(SourceError::setup(name, problem));
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > MAX_SOURCE_NAME_BYTES || !name.bytes().all(is_allowed) {
            return wrong(format!("its name must have 1 to {MAX_SOURCE_NAME_BYTES} letters, digits, - or _"));
        }
        for (setting, value, limit) in [
            ("max_events", self.max_events.get(), MAX_EMIT_EVENTS),
            ("max_bytes", self.max_bytes.get(), MAX_EMIT_BYTES),
        ] {
            if value > limit {
                return wrong(format!("{setting} is {value}: the limit is {limit}"));
            }
        }
        for (setting, value) in [
            ("poll_interval", self.poll_interval),
            ("partition_interval", self.partition_interval),
            ("checkpoint_interval", self.checkpoint_interval),
            ("partitions_limit", self.partitions_limit),
            ("open_limit", self.open_limit),
            ("committed_limit", self.committed_limit),
            ("retry_base", self.retry_base),
        ] {
            if value.is_zero() {
                return wrong(format!("{setting} is zero: set it to more"));
            }
        }
        if self.retry_cap < self.retry_base {
            return wrong("retry_cap is shorter than retry_base".to_owned());
        }
        Ok(())
    }
}
