//! Options of the batch client.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::chip::client::breaker::BreakerConfig;
use crate::chip::error::ConfigError;

/// Least value of [`BatchConfig::max_request_bytes`]; smaller ones are raised to it.
pub const MIN_REQUEST_BYTES: usize = 1 << 20;

/// Part of [`BatchConfig::max_request_bytes`] that is kept for the framing.
pub const FRAMING_RESERVE_BYTES: usize = 10 << 10;

/// Meaning of a gRPC OK without any result in partial mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmptyResults {
    /// The server published all events: some servers do not fill in the results. Counted, and logged once.
    #[default]
    Success,
    /// No event counts as published: the client's caller sends all of them again.
    Mismatch,
}

/// Options of a [`BatchClient`](crate::chip::BatchClient).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchConfig {
    /// Most events of a request.
    pub batch_size: NonZeroUsize,
    /// Most bytes of a request, with the framing; at least [`MIN_REQUEST_BYTES`].
    pub max_request_bytes: usize,
    /// Batches in flight at the same time.
    pub max_concurrent_sends: NonZeroUsize,
    /// Age of its first event at which the client sends a batch that is not full.
    pub batch_interval: Duration,
    /// Longest time of a request.
    pub publish_timeout: Duration,
    /// Longest time of a stop whose caller gives no limit. A durable emitter puts its `Config::shutdown_timeout` here.
    pub shutdown_timeout: Duration,
    /// Most events that wait for their batch. The queue refuses further ones.
    pub message_buffer: NonZeroUsize,
    /// Whether the server publishes each request as a whole or not at all.
    pub transaction_enabled: bool,
    /// Whether a transactional batch that is too large may be split, so that only each part is published as a whole.
    pub split_transactions: bool,
    /// Meaning of a gRPC OK without any result.
    pub empty_results: EmptyResults,
    /// Label `client_name` of all metrics.
    pub client_name: Option<String>,
    /// Condition on which the breaker opens; `None`: no breaker.
    pub breaker: Option<BreakerConfig>,
}

impl Default for BatchConfig {
    /// Returns the defaults of a library that embeds the client: small batches, one at a time.
    fn default() -> Self {
        BatchConfig {
            batch_size: count(10),
            max_request_bytes: 10 << 20,
            max_concurrent_sends: count(1),
            batch_interval: Duration::from_millis(100),
            publish_timeout: Duration::from_secs(5),
            shutdown_timeout: Duration::from_secs(5),
            message_buffer: count(200),
            transaction_enabled: false,
            split_transactions: false,
            empty_results: EmptyResults::Success,
            client_name: None,
            breaker: None,
        }
    }
}

impl BatchConfig {
    /// Returns the defaults of a durable emitter.
    #[must_use]
    pub fn durable() -> Self {
        BatchConfig {
            batch_size: count(50),
            max_concurrent_sends: count(4),
            batch_interval: Duration::from_millis(50),
            message_buffer: count(10_000),
            shutdown_timeout: Duration::from_secs(30),
            client_name: Some("durable_emitter".to_owned()),
            breaker: Some(BreakerConfig::default()),
            ..BatchConfig::default()
        }
    }

    /// Returns the limit of a request: `max_request_bytes`, or [`MIN_REQUEST_BYTES`] if that is more.
    #[must_use]
    pub fn request_limit(&self) -> usize {
        self.max_request_bytes.max(MIN_REQUEST_BYTES)
    }

    /// Returns the limit of a part when a batch is split.
    #[must_use]
    pub fn effective_request_limit(&self) -> usize {
        self.request_limit() - FRAMING_RESERVE_BYTES
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (setting, duration) in [
            ("batch_interval", self.batch_interval),
            ("publish_timeout", self.publish_timeout),
            ("batch.shutdown_timeout", self.shutdown_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::Zero { setting });
            }
        }
        Ok(())
    }
}

const fn count(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}
