//! The errors of a client.

use std::time::Duration;

use crate::error::BoxError;
use crate::proto::consumer;

/// Why a call of a [`ShardClient`](super::ShardClient) did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardClientError {
    /// The address or a header is not usable.
    #[error("set up a client of the shard API: {problem}")]
    #[non_exhaustive]
    Setup {
        /// The problem and its remedy.
        problem: String,
        /// The cause, if there is one.
        source: Option<BoxError>,
    },
    /// The call failed: the server is away, refuses the caller, or refuses the request.
    #[error("{attempt}: {code:?}: {message}")]
    #[non_exhaustive]
    Call {
        /// The attempt.
        attempt: String,
        /// The code of gRPC.
        code: tonic::Code,
        /// What the server says.
        message: String,
    },
    /// The server answered with a status other than OK.
    #[error("{attempt}: {}", status.as_str_name())]
    #[non_exhaustive]
    Refused {
        /// The attempt.
        attempt: String,
        /// The status.
        status: consumer::Status,
    },
    /// A batch of changes failed after others were applied.
    #[error("apply changes: {applied} of {changes} were applied before a batch failed")]
    #[non_exhaustive]
    PartlyApplied {
        /// Number of changes of the batches before.
        applied: usize,
        /// Number of all changes.
        changes: usize,
        /// The error of the failed batch, of which nothing was applied.
        source: Box<ShardClientError>,
    },
    /// Shards are disabled, so no process will work on them.
    #[error(
        "wait until shards are ready: {} are disabled, so no process works on them: {}: enable them, or select others",
        shards.len(),
        shards.join(" ")
    )]
    #[non_exhaustive]
    Disabled {
        /// Ids of the disabled shards.
        shards: Vec<String>,
    },
    /// Shards were not ready in time.
    #[error("wait until shards are ready: {} are not, after {limit:?}: {}", shards.len(), shards.join(" "))]
    #[non_exhaustive]
    NotReady {
        /// Ids of the shards that were not ready.
        shards: Vec<String>,
        /// Longest wait.
        limit: Duration,
    },
}

impl ShardClientError {
    pub(super) fn setup(problem: &str, source: impl Into<BoxError>) -> Self {
        ShardClientError::Setup { problem: problem.to_owned(), source: Some(source.into()) }
    }

    /// Returns the status with which the server refused, also of a batch; `None` when the call itself failed.
    #[must_use]
    pub fn status(&self) -> Option<consumer::Status> {
        match self {
            ShardClientError::Refused { status, .. } => Some(*status),
            ShardClientError::PartlyApplied { source, .. } => source.status(),
            _ => None,
        }
    }
}
