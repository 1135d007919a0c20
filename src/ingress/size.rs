//! Requests over the size limit are refused in the words that clients of other gRPC servers know.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// How the message of tonic's refusal begins, which comes as OUT_OF_RANGE.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// Turns the refusal of a too large request into RESOURCE_EXHAUSTED.
#[derive(Debug, Clone)]
pub(super) struct SizeRefusal<S> {
    inner: S,
    limit: usize,
}

impl<S> SizeRefusal<S> {
    pub(super) fn new(inner: S, limit: usize) -> Self {
        SizeRefusal { inner, limit }
    }
}

/// The refusal of a request of so many bytes.
pub(super) fn larger_than_max(bytes: impl std::fmt::Display, limit: usize) -> Status {
    Status::resource_exhausted(format!("received message larger than max ({bytes} vs. {limit})"))
}

impl<S: NamedService> NamedService for SizeRefusal<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for SizeRefusal<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.inner.call(request);
        let limit = self.limit;
        Box::pin(async move {
            let answer = answer.await?;
            Ok(match answer.extensions().get::<Status>() {
                Some(status) if status.code() == Code::OutOfRange && status.message().starts_with(TOO_LARGE) => {
                    larger_than_max(found_bytes(status.message()), limit).into_http()
                }
                _ => answer,
            })
        })
    }
}

/// The size in "… too large: found 123 bytes, the limit is: …".
fn found_bytes(message: &str) -> &str {
    message.split_once("found ").and_then(|(_, rest)| rest.split_once(' ')).map_or("?", |(bytes, _)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_found() {
        assert_eq!(found_bytes(&format!("{TOO_LARGE}: found 123 bytes, the limit is: 10 bytes")), "123");
        assert_eq!(found_bytes("other"), "?");
    }
}
