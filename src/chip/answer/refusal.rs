//! Cause of a failed request: one of its events, its size, its duration, or the destination.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use crate::chip::answer::outcome::SendError;
use crate::chip::answer::retry_hint::retry_after;

/// Possible causes of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No request was made.
    NotMade,
    /// The request took too long; a smaller one may not.
    Slow,
    /// The destination, or the way to it. More requests would not help.
    Destination,
    /// The size of the request, or the rate of requests. A small request shows which.
    SizeOrRate,
    /// One of the events for certain. Requests with parts of them show which.
    Event,
    /// One of the events, or the destination. Requests with parts of the events show which.
    EventOrDestination,
}

impl SendError {
    pub(crate) fn refusal(&self) -> Refusal {
        let SendError::Status(status) = self else { return Refusal::NotMade };
        if is_local(status) {
            return Refusal::Destination;
        }
        match status.code() {
            Code::DeadlineExceeded => Refusal::Slow,
            Code::Unavailable | Code::Unauthenticated => Refusal::Destination,
            _ if says_too_large(status) => Refusal::Event,
            Code::ResourceExhausted if retry_after(status).is_some() => Refusal::Destination,
            Code::ResourceExhausted => Refusal::SizeOrRate,
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Refusal::Event,
            _ => Refusal::EventOrDestination,
        }
    }

    /// Returns the pause that the server asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            SendError::Status(status) => retry_after(status),
            _ => None,
        }
    }
}

/// Returns whether a status says that a message is too large, by a code that servers use for it and in one of the usual
/// wordings. This decides alone only about a request of one event; larger ones are halved on any such code.
pub(crate) fn says_too_large(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::ResourceExhausted
            | Code::OutOfRange
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Internal
            | Code::Unknown
    );
    let text = status.message().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // The client library reports an HTTP answer without a gRPC status in these words.
    let http = text.ends_with("http status code 413");
    let exceeded = says(&["exceed", "over the", "above"]) && says(&["size", "length", "bytes"]);
    code && (http || says(&["larger than", "too large", "too big", "too long"]) || exceeded)
}

/// Mark of a status that this process made, and not a server.
#[derive(Debug)]
struct Local;

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl Error for Local {}

/// Marks a status as made by this process: it says nothing about any event.
pub(crate) fn local(mut status: Status) -> Status {
    status.set_source(Arc::new(Local));
    status
}

fn is_local(status: &Status) -> bool {
    status.source().is_some_and(|source| source.is::<Local>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_known_in_many_words_and_rates_are_not_sizes() {
        for text in [
            "grpc: received message larger than max (5 vs. 4)",
            "Request Entity Too Large",
            "message length 7340032 exceeds the limit of 4194304 bytes",
            "decoded message length too large: found 5 bytes, the limit is: 4 bytes",
            "payload size over the limit",
            "grpc-status header missing, mapped from HTTP status code 413",
        ] {
            for code in [Code::ResourceExhausted, Code::Unknown, Code::OutOfRange, Code::Internal] {
                assert!(says_too_large(&Status::new(code, text)), "{code:?} {text}");
            }
            assert!(!says_too_large(&Status::unavailable(text)));
        }
        for text in ["rate limit exceeded", "quota exceeded for requests per minute", "too many requests", "HTTP 429"] {
            assert!(!says_too_large(&Status::resource_exhausted(text)), "{text}");
        }
    }

    #[test]
    fn a_status_of_this_process_is_about_no_event() {
        assert_eq!(SendError::Status(Status::internal("x")).refusal(), Refusal::EventOrDestination);
        assert_eq!(SendError::Status(local(Status::internal("x"))).refusal(), Refusal::Destination);
    }
}
