//! Errors of the emitter.

use std::sync::Arc;

use crate::chip::error::ConfigError;
use crate::cloudevent::CloudEventError;

/// Reason why an emitter could not be built or did not take an event. A failed delivery is no such error: the row stays
/// and is sent again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emitter is not running: before `start`, or after `stop`. Nothing was stored.
    #[error("the durable emitter is not started")]
    NotStarted,
    /// `start` was called a second time.
    #[error("the durable emitter was started before: build another one")]
    AlreadyStarted,
    /// A setting is wrong.
    #[error("the durable emitter cannot be set up")]
    Config(#[from] ConfigError),
    /// The claim of a row would end while its message is being sent.
    #[error(
        "claim_ttl ({claim_ttl_ms} ms) must be longer than publish_timeout ({publish_timeout_ms} ms), \
         or two hosts could send a row at the same time"
    )]
    ClaimTooShort {
        /// Duration of a claim, in milliseconds.
        claim_ttl_ms: u128,
        /// Longest time of a request, in milliseconds.
        publish_timeout_ms: u128,
    },
    /// A required setting is missing.
    #[error("{problem}")]
    Missing {
        /// The missing setting, with its name.
        problem: &'static str,
    },
    /// Two settings exclude each other.
    #[error("{first} and {second} are both set: set only one of them")]
    BothSet {
        /// Name of the first setting.
        first: &'static str,
        /// Name of the second setting.
        second: &'static str,
    },
    /// The event cannot be sent. Nothing was stored.
    #[error("the event cannot be sent")]
    Event(#[from] CloudEventError),
    /// The event is larger than a request may be. Nothing was stored.
    #[error("the event has {bytes} bytes, over the limit of {limit} of a request")]
    TooLarge {
        /// Size of the event, in bytes.
        bytes: usize,
        /// Largest size of an event, in bytes.
        limit: usize,
    },
    /// The event could not be stored. After [`Error::Unknown`](crate::Error::Unknown) it may be stored.
    #[error("failed to persist event")]
    Persist(#[source] Arc<crate::error::Error>),
    /// The outbox or the dead letters could not be read or changed.
    #[error("the outbox could not be read or changed")]
    Database(#[from] crate::error::Error),
    /// The process has no global emitter.
    #[error("durable emitter not initialized")]
    NotInitialized,
    /// The global emitter did not take the event.
    #[error("durable emitter emit failed")]
    PublishFailed(#[source] Box<Error>),
}
