//! Why a request was not sent on.

use std::fmt;

use http::{Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};
use uuid::Uuid;

use super::headers::{GENERATION_HEADER, PROXIED_BY_HEADER};
use crate::error::{BoxError, Error};
use crate::recipient::Recipient;
use crate::runtime::ResolveStatus;

/// Why a [`Proxy`](super::Proxy) returned neither a request nor an answer. Nothing was done, except perhaps by a
/// process that did not answer.
#[derive(Debug)]
pub struct ProxyError {
    problem: Problem,
    /// Whether the answer is one of gRPC.
    is_grpc: bool,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("find the process that works on {recipient}: {status}")]
    Refused { recipient: Recipient, status: ResolveStatus },
    #[error("send a request on to {worker}: it has no endpoint: set RuntimeConfig::endpoint there")]
    NoEndpoint { worker: Uuid },
    #[error("send a request on to {worker} at {endpoint}")]
    Away { worker: Uuid, endpoint: String, source: BoxError },
    #[error("read a request that was sent on: it needs both headers, {PROXIED_BY_HEADER} and {GENERATION_HEADER}")]
    Headers,
    #[error("find the process that works on a recipient")]
    Resolve(#[source] Error),
}

impl Problem {
    pub(super) fn of(self, is_grpc: bool) -> ProxyError {
        ProxyError { problem: self, is_grpc }
    }

    /// Returns the codes of HTTP and of gRPC.
    fn codes(&self) -> (StatusCode, Code) {
        match self {
            Problem::Refused { status: ResolveStatus::NotPrimary | ResolveStatus::WrongGeneration, .. } => {
                (StatusCode::MISDIRECTED_REQUEST, Code::Unavailable)
            }
            Problem::Refused { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            Problem::NoEndpoint { .. } | Problem::Away { .. } => (StatusCode::BAD_GATEWAY, Code::Unavailable),
            Problem::Headers => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
            Problem::Resolve(error) if error.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            Problem::Resolve(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
        }
    }
}

impl ProxyError {
    /// Returns what the resolver found when no process works on the recipient, or not the one that was asked.
    #[must_use]
    pub fn status(&self) -> Option<ResolveStatus> {
        match &self.problem {
            Problem::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the status of an HTTP answer: 421 when the wrong process was asked, 503 when no process works on the
    /// recipient, 502 when the other process does not answer, 400 for wrong headers.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        self.problem.codes().0
    }

    /// Makes an answer: of gRPC for a request of gRPC, and otherwise of HTTP, with the error as text.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let (http, grpc) = self.problem.codes();
        if self.is_grpc {
            return Status::new(grpc, self.problem.to_string()).into_http();
        }
        let mut response = Response::new(Body::new(self.problem.to_string()));
        *response.status_mut() = http;
        response
    }
}
