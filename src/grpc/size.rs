//! The refusal of requests above the size limit, in the words that other gRPC servers use.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// The start of the message with which tonic refuses a large request. The code is OUT_OF_RANGE.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// A service that turns tonic's refusal of a large request into RESOURCE_EXHAUSTED.
#[derive(Debug, Clone)]
pub(crate) struct SizeRefusal<S>(pub(crate) S);

/// Returns the refusal of a request of `bytes` bytes.
pub(crate) fn larger_than_max(bytes: impl std::fmt::Display, limit: impl std::fmt::Display) -> Status {
    Status::resource_exhausted(format!("received message larger than max ({bytes} vs. {limit})"))
}

/// Returns the refusal in the usual words, or `None` when `status` is not tonic's refusal of a large request.
pub(crate) fn reworded(status: &Status) -> Option<Status> {
    let numbers = status.message().strip_prefix(TOO_LARGE).filter(|_| status.code() == Code::OutOfRange)?;
    let mut numbers = numbers.split_whitespace().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    Some(larger_than_max(numbers.next()?, numbers.next()?))
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
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let reworded = answer.extensions().get::<Status>().and_then(reworded);
            Ok(reworded.map_or(answer, Status::into_http))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_sizes_are_reworded() {
        let refusal = format!("{TOO_LARGE}: found 123 bytes, the limit is: 10 bytes");
        let told = reworded(&Status::out_of_range(&refusal)).map(|status| (status.code(), status.message().to_owned()));
        assert_eq!(told, Some((Code::ResourceExhausted, "received message larger than max (123 vs. 10)".to_owned())));
        assert!(reworded(&Status::internal(refusal)).is_none());
        assert!(reworded(&Status::out_of_range("found 1 and 2")).is_none());
    }
}
