//! Errors of events that were sent, and their classes.
#![doc = include_str!("retry_classes.md")]

use std::borrow::Cow;
use std::fmt;

use tonic::{Code, Status};

use crate::chip::answer::refusal::{Refusal, says_too_large};
use crate::proto::chipingress::pb::PublishErrorCode;

/// Reason why an event was not delivered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The whole request failed.
    #[error("{0}")]
    Status(Status),
    /// The server refused this event with a code and a reason.
    #[error("{code}: {reason}")]
    Event {
        /// Code of the server.
        code: EventErrorCode,
        /// Text of the server, of any length.
        reason: String,
    },
    /// The event alone makes a request over the limit. The client did not send it.
    #[error("publish batch serialized size {bytes} exceeds max gRPC request size {limit}")]
    TooLarge {
        /// Size of the request, in bytes.
        bytes: usize,
        /// Limit of a request, in bytes.
        limit: usize,
    },
    /// A batch that must be published as a whole does not fit into one request. The client did not send it.
    #[error(
        "the transactional batch of {events} events exceeds the max gRPC request size: \
         allow split_transactions or lower the batch size"
    )]
    TransactionTooLarge {
        /// Number of events of the batch.
        events: usize,
    },
    /// The queue of the client is full.
    #[error("message buffer is full")]
    BufferFull,
    /// The client was stopped.
    #[error("client is shutdown")]
    Shutdown,
    /// The claim of the row ended before the request, so another process may send the message.
    #[error("the claim on the message ended before it was sent")]
    ClaimOver,
    /// The breaker is open, because the endpoint failed.
    #[error("the circuit to the endpoint is open")]
    CircuitOpen,
}

/// Code of a refused event, as a number of `PublishErrorCode`; -1 is a missing result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventErrorCode(pub i32);

impl EventErrorCode {
    /// The server answered with fewer results than events. Never on the wire.
    pub const RESULTS_MISMATCH: Self = EventErrorCode(-1);

    /// Returns the name of the code. A number that this version does not know is `PUBLISH_ERROR_CODE_UNKNOWN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        if self == Self::RESULTS_MISMATCH {
            return "RESULTS_MISMATCH";
        }
        PublishErrorCode::try_from(self.0).unwrap_or(PublishErrorCode::Unknown).as_str_name()
    }
}

impl fmt::Display for EventErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Next step for an event that was not delivered; see the table of [`chip`](crate::chip).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryClass {
    /// Retry with back-off.
    Transient,
    /// Retry with a long back-off, because an operator must act first.
    SlowTransient,
    /// Open the breaker and keep the event, which is not the cause.
    Endpoint,
    /// Do not retry: the event becomes a dead letter.
    Permanent,
    /// Leave the row as it is, because no request was made.
    NotTried,
}

impl SendError {
    /// Returns the class of the error, for an event that was `alone` in its request or not.
    #[must_use]
    pub fn class(&self, alone: bool) -> RetryClass {
        match self {
            SendError::Status(status) => match status.code() {
                Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::NotFound => {
                    RetryClass::Endpoint
                }
                Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition if alone => RetryClass::Permanent,
                _ if alone && says_too_large(status) => RetryClass::Permanent,
                _ => RetryClass::Transient,
            },
            SendError::Event { code, .. } => match PublishErrorCode::try_from(code.0) {
                Ok(PublishErrorCode::ValidationFailed | PublishErrorCode::EncodeError) => RetryClass::Permanent,
                Ok(PublishErrorCode::SchemaMissing | PublishErrorCode::DomainMisconfiguration) => {
                    RetryClass::SlowTransient
                }
                Ok(PublishErrorCode::Unknown) | Err(_) => RetryClass::Transient,
            },
            SendError::TooLarge { .. } => RetryClass::Permanent,
            SendError::TransactionTooLarge { .. } => RetryClass::Transient,
            SendError::BufferFull | SendError::Shutdown | SendError::ClaimOver | SendError::CircuitOpen => {
                RetryClass::NotTried
            }
        }
    }

    /// Returns whether a batch with this error should be halved to find the event that the error is about.
    #[must_use]
    pub fn wants_bisection(&self) -> bool {
        matches!(self.refusal(), Refusal::SizeOrRate | Refusal::Event | Refusal::EventOrDestination)
    }

    /// Returns the error as a metric label: one of a few texts, never the text of the server.
    #[must_use]
    pub fn code(&self) -> Cow<'static, str> {
        match self {
            SendError::Event { code: EventErrorCode::RESULTS_MISMATCH, .. } => "results_mismatch".into(),
            SendError::Event { code, .. } => code.name().into(),
            SendError::Status(status) => code_name(status.code()).into(),
            SendError::BufferFull => "message buffer is full".into(),
            SendError::Shutdown => "client is shutdown".into(),
            SendError::TooLarge { .. }
            | SendError::TransactionTooLarge { .. }
            | SendError::ClaimOver
            | SendError::CircuitOpen => "client_error".into(),
        }
    }

    /// Returns the code of the dead letter: [`code`](Self::code), with a code of its own for a message that is too
    /// large.
    pub(crate) fn dead_letter_code(&self) -> Cow<'static, str> {
        match self {
            SendError::TooLarge { .. } => "TOO_LARGE".into(),
            other => other.code(),
        }
    }
}

/// Returns the code of an error, one of a few texts; empty without an error.
#[must_use]
pub fn error_code(error: Option<&SendError>) -> Cow<'static, str> {
    error.map_or(Cow::Borrowed(""), SendError::code)
}

/// Returns the name of a gRPC code in CamelCase.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
