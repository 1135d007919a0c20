//! Errors of the emitter.

use std::sync::Arc;

use crate::cloudevent::CloudEventError;
use crate::error::Error;

/// Why an emitter could not be built or did not take an event. A delivery that fails is no error here: the row stays and is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitterError {
    /// It is not running: before `start`, or after `stop`. Nothing was stored.
    #[error("the durable emitter is not started")]
    NotStarted,
    /// `start` was called a second time.
    #[error("the durable emitter was started before: build another one")]
    AlreadyStarted,
    /// The configuration is wrong.
    #[error("the durable emitter cannot be set up")]
    Config(#[from] ConfigError),
    /// The event is not one that can be sent. Nothing was stored.
    #[error("the event cannot be sent")]
    Event(#[from] CloudEventError),
    /// The event is larger than any request may be. Nothing was stored.
    #[error("the event has {bytes} bytes, over the limit of {limit} of a request")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The event could not be stored; after [`Error::Unknown`] it may be there.
    #[error("failed to persist event")]
    Persist(#[source] Arc<Error>),
    /// The outbox or the dead letters could not be read or changed.
    #[error("the outbox could not be read or changed")]
    Database(#[from] Error),
    /// There is no global emitter.
    #[error("durable emitter not initialized")]
    NotInitialized,
    /// The global emitter did not take the event.
    #[error("durable emitter emit failed")]
    EmitFailed(#[source] Box<EmitterError>),
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting that must not be zero.
    #[error("{setting} must not be zero")]
    Zero {
        /// The setting.
        setting: &'static str,
    },
    /// The claim of a row would end while it is being sent.
    #[error(
        "retransmit_after ({retransmit_after_ms} ms) must be longer than publish_timeout ({publish_timeout_ms} ms), or two hosts could send a row at once"
    )]
    ClaimTooShort {
        /// How long a claim lasts.
        retransmit_after_ms: u128,
        /// How long a request may last.
        publish_timeout_ms: u128,
    },
    /// The address is not `host:port`.
    #[error("invalid address format: {problem}")]
    InvalidAddress {
        /// What is wrong with it.
        problem: String,
    },
    /// A TLS setting that cannot be used.
    #[error("the TLS settings cannot be used: {problem}")]
    Tls {
        /// What is wrong.
        problem: String,
    },
    /// An authentication setting that cannot be used.
    #[error("auth: {0}")]
    Auth(AuthConfigError),
    /// A setting that is required.
    #[error("{problem}")]
    Missing {
        /// What is missing, and under which name to give it.
        problem: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} are both set: set only one of them")]
    BothSet {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}

/// What is wrong with the settings of an authentication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthConfigError {
    /// No public key.
    #[error("public key hex required for rotating auth (TTL > 0)")]
    PublicKeyRequired,
    /// A header that is valid too shortly.
    #[error("headers TTL must be at least 10 minutes")]
    TtlTooShort,
    /// A public key that is not hex.
    #[error("failed to decode public key hex: {problem}")]
    InvalidPublicKey {
        /// What is wrong with it.
        problem: String,
    },
    /// Credentials would travel in the clear.
    #[error("credentials need TLS: switch it on, or say `insecure` on purpose")]
    NeedsTls,
}
