//! Errors of the emitter.

use std::sync::Arc;

use crate::chip::error::ConfigError;
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
