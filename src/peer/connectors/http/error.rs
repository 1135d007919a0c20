//! Why an event is no request or no answer, and why a request had no success.

use std::time::Duration;

use http::StatusCode;

use crate::error::BoxError;

/// Why the HTTP connectors could not deliver an event. The text stands beside the event in its quarantine, or in the
/// record of its failures.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::HttpError;
///
/// let late = HttpError::Unroutable { problem: "request 7 does not wait any more".to_owned() };
/// assert!(late.to_string().contains("request 7"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The value is no envelope: no JSON, an unknown key, a key of another type.
    #[error("read the event as an envelope: write a JSON object with the keys that the docs list")]
    Envelope {
        /// Error of the JSON reader.
        source: serde_json::Error,
    },
    /// A part of a request or a response is not allowed.
    #[error("the {part} is refused: {problem}")]
    Part {
        /// The part: `path`, `headers`, `status`.
        part: &'static str,
        /// The problem and its remedy.
        problem: String,
    },
    /// An answer finds no request that waits for it.
    #[error("find the request of the answer: {problem}")]
    Unroutable {
        /// The reason.
        problem: String,
    },
    /// The server answered with a status that is no success.
    #[error("{request}: the server answered {status}{excerpt}")]
    Status {
        /// Method and URL of the request.
        request: String,
        /// The status.
        status: StatusCode,
        /// Start of the response's body, after a colon; or empty.
        excerpt: String,
    },
    /// No response came in time.
    #[error("{request}: no response within {limit:?}")]
    Timeout {
        /// Method and URL of the request.
        request: String,
        /// Longest time of an exchange.
        limit: Duration,
    },
    /// The response is larger than the limit.
    #[error("{request}: the response is over the limit of {limit} bytes")]
    TooLarge {
        /// Method and URL of the request.
        request: String,
        /// The limit.
        limit: usize,
    },
    /// The connection could not be made, or was lost.
    #[error("{request}: the connection failed")]
    Connection {
        /// Method and URL of the request.
        request: String,
        /// Error of the connection.
        source: BoxError,
    },
}

impl HttpError {
    pub(super) fn part(part: &'static str, problem: impl Into<String>) -> Self {
        HttpError::Part { part, problem: problem.into() }
    }

    pub(super) fn unroutable(problem: impl Into<String>) -> Self {
        HttpError::Unroutable { problem: problem.into() }
    }
}
