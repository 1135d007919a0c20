//! Responses: those that an event gives, those that the server gives itself, and the receipt of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::config::Settings;
use crate::peer::OutgoingEvent;
use crate::peer::connectors::http::envelope::{self, ResponseOut};
use crate::peer::connectors::http::error::HttpError;
use crate::peer::connectors::http::{Format, headers};

/// Seconds after which a client may try again when the database or a limit is the reason.
const RETRY_AFTER_SECONDS: &str = "1";

/// A response, before it is one of a connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Makes an answer of the server itself: a status, and a line that says why.
    pub(super) fn say(status: StatusCode, why: &str) -> Self {
        let mut headers = HeaderMap::new();
        if why.is_empty() {
            return Answer { status, headers, body: Bytes::new() };
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Answer { status, headers, body: format!("{why}\n").into() }
    }

    /// Says also when the client may try again.
    pub(super) fn try_again(mut self) -> Self {
        self.headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        self
    }

    pub(super) fn unauthorized() -> Self {
        let mut answer = Answer::say(StatusCode::UNAUTHORIZED, "send Authorization: Bearer <token>");
        answer.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        answer
    }

    pub(super) fn method_not_allowed(methods: &str) -> Self {
        let mut answer = Answer::say(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {methods}"));
        if let Ok(methods) = HeaderValue::from_str(methods) {
            answer.headers.insert(ALLOW, methods);
        }
        answer
    }

    pub(super) fn stopping() -> Self {
        Answer::say(StatusCode::SERVICE_UNAVAILABLE, "the server stops: send the request again").try_again()
    }
}

/// Reads an event as an answer, and the number of the request that it names.
pub(super) fn read(event: &OutgoingEvent, settings: &Settings) -> Result<(Answer, Option<u64>), HttpError> {
    match settings.config.response_format {
        Format::Raw => {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, settings.content_type.clone())]);
            Ok((Answer { status: StatusCode::OK, headers, body: event.encoded.concat().into() }, None))
        }
        Format::Envelope => read_envelope(event.event.value(), &settings.content_type),
    }
}

/// Returns the number of the request that an envelope names, also when the rest of the envelope is wrong.
pub(super) fn named_request(value: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(value).ok()?.get("request")?.as_u64()
}

fn read_envelope(value: &[u8], content_type: &HeaderValue) -> Result<(Answer, Option<u64>), HttpError> {
    let envelope: ResponseOut = envelope::read(value)?;
    let status = status(envelope.status.unwrap_or(200))?;
    let mut headers = headers::read(&envelope.headers, |_| false)?;
    let body = envelope.body()?;
    let has_none = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if has_none && !body.bytes.is_empty() {
        return Err(HttpError::part("body", format!("a response with status {} has none", status.as_u16())));
    }
    if !body.bytes.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, if body.is_json { json } else { content_type.clone() });
    }
    Ok((Answer { status, headers, body: body.bytes }, envelope.request))
}

fn status(number: u16) -> Result<StatusCode, HttpError> {
    match StatusCode::from_u16(number) {
        Ok(status) if (200..=599).contains(&number) => Ok(status),
        _ => Err(HttpError::part("status", format!("{number} is none of 200 to 599"))),
    }
}

/// Says once that a response was handed to its connection. When all clones are gone without it, nobody has it.
#[derive(Debug, Clone)]
pub(super) struct Receipt(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl Receipt {
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Receipt(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    fn sign(&self) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = sender.send(());
        }
    }
}

/// The body of a response, which signs the receipt when the connection takes it.
#[derive(Debug)]
pub(super) struct AnswerBody {
    bytes: Bytes,
    /// Whether the connection drops the body without asking for it: there is none, or the request was a `HEAD`.
    is_dropped_unread: bool,
    receipt: Option<Receipt>,
}

/// Makes the response of a connection.
pub(super) fn response(answer: &Answer, receipt: Option<Receipt>, is_head: bool) -> Response<AnswerBody> {
    let has_none = answer.status == StatusCode::NO_CONTENT || answer.status == StatusCode::NOT_MODIFIED;
    let is_dropped_unread = is_head || has_none || answer.body.is_empty();
    let body = AnswerBody { bytes: answer.body.clone(), is_dropped_unread, receipt };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    response
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(receipt) = self.receipt.take() {
            receipt.sign();
        }
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // A connection writes the head and drops such a body at once.
        if let Some(receipt) = self.receipt.take().filter(|_| self.is_dropped_unread) {
            receipt.sign();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Result<(Answer, Option<u64>), HttpError> {
        read_envelope(text.as_bytes(), &HeaderValue::from_static("text/plain"))
    }

    #[test]
    fn an_envelope_is_a_response() {
        let (answer, request) = envelope(r#"{"status":201,"body":{"a":1},"request":7}"#).unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..], request), (201, &br#"{"a":1}"#[..], Some(7)));
        assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
        let (answer, request) = envelope(r#"{"body":"hello","headers":{"x-a":"b"}}"#).unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..], request), (200, &b"hello"[..], None));
        assert!(answer.headers[CONTENT_TYPE] == "text/plain" && answer.headers["x-a"] == "b");
    }

    #[test]
    fn a_wrong_response_is_refused() {
        for wrong in [
            r#"{"status":101}"#,
            r#"{"status":199}"#,
            r#"{"status":600}"#,
            r#"{"status":-1}"#,
            r#"{"status":204,"body":"x"}"#,
            r#"{"headers":{"connection":"close"}}"#,
            r#"{"headers":{"content-length":"3"}}"#,
            r#"{"headers":{"x":"a\r\nb: c"}}"#,
            r#"{"state":200}"#,
            "hello",
        ] {
            assert!(envelope(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_receipt_is_signed_once_the_connection_takes_the_body() {
        let taken = |body: &'static str, is_head| {
            let (receipt, mut receiver) = Receipt::new();
            drop(response(&Answer { body: body.into(), ..Answer::say(StatusCode::OK, "") }, Some(receipt), is_head));
            receiver.try_recv().is_ok()
        };
        assert!(!taken("a body that nobody asked for", false));
        assert!(taken("", false) && taken("the body of a HEAD", true));
    }
}
