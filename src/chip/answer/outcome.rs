//! The outcome of a message that was sent, and the next step.
#![doc = include_str!("retry_classes.md")]

use std::borrow::Cow;
use std::fmt;

use tonic::{Code, Status};

use crate::chip::answer::refusal::{Refusal, says_too_large};
use crate::proto::chipingress::pb::PublishErrorCode;

/// Why a message was not delivered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The whole request failed.
    #[error("{0}")]
    Status(Status),
    /// The server refused this message and said why.
    #[error("{code}: {reason}")]
    Event {
        /// The server's code.
        code: EventErrorCode,
        /// The server's words, of any length.
        reason: String,
    },
    /// The message alone makes a request over the limit; it was not sent.
    #[error("publish batch serialized size {bytes} exceeds max gRPC request size {limit}")]
    TooLarge {
        /// The size of the request.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A batch that must be published as a whole does not fit into one request; it was not sent.
    #[error(
        "the transactional batch of {events} events exceeds the max gRPC request size: allow split_transactions or lower the batch size"
    )]
    TransactionTooLarge {
        /// The events of the batch.
        events: usize,
    },
    /// The queue to the sender is full.
    #[error("message buffer is full")]
    BufferFull,
    /// The sender was stopped.
    #[error("client is shutdown")]
    Shutdown,
    /// The claim on the row ended before it was sent, so somebody else may send it.
    #[error("the claim on the message ended before it was sent")]
    ClaimOver,
    /// The endpoint failed too often of late.
    #[error("the circuit to the endpoint is open")]
    CircuitOpen,
}

/// The code of a message that a server refused, as a number of `PublishErrorCode`; -1 is a missing result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventErrorCode(pub i32);

impl EventErrorCode {
    /// The server answered with fewer results than there were events. Never on the wire.
    pub const RESULTS_MISMATCH: Self = EventErrorCode(-1);

    /// The name of the code; numbers that this version does not know are `PUBLISH_ERROR_CODE_UNKNOWN`.
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

/// Next step for a message that was not delivered; the table is at the head of this page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryClass {
    /// Try again with backoff.
    Transient,
    /// Try again with a long backoff: somebody must do something first.
    SlowTransient,
    /// Nothing is wrong with the message: open the breaker and keep it.
    Endpoint,
    /// Never try again: it is a dead letter.
    Permanent,
    /// It was not tried; its row stays as it is.
    NotTried,
}

impl SendError {
    /// The class of the error, for a message that was `alone` in its request or not.
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

    /// True when a batch with this error should be halved, to find the message it is about.
    #[must_use]
    pub fn wants_bisection(&self) -> bool {
        matches!(self.refusal(), Refusal::SizeOrRate | Refusal::Event | Refusal::EventOrDestination)
    }

    /// The error as a metric label: one of a few texts, never the server's words.
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

    /// The code of the dead letter: as [`code`](Self::code), but it tells the client's own errors apart.
    pub(crate) fn dead_letter_code(&self) -> Cow<'static, str> {
        match self {
            SendError::TooLarge { .. } => "TOO_LARGE".into(),
            other => other.code(),
        }
    }
}

/// A bounded error code for a result: empty when there is no error.
#[must_use]
pub fn error_code(error: Option<&SendError>) -> Cow<'static, str> {
    error.map_or(Cow::Borrowed(""), SendError::code)
}

/// The name of a gRPC code in CamelCase.
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
