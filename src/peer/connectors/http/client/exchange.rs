//! One exchange: a request, its response, and what the response means for its event.

use std::time::Duration;

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::config::Settings;
use super::dial::Dial;
use super::target::{self, Outbound};
use crate::clock;
use crate::peer::OutgoingEvent;
use crate::peer::connectors::http::error::HttpError;
use crate::peer::connectors::http::headers;

/// Longest pause that a server may ask for with `retry-after`; a longer one is cut to it.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Most bytes of a refused response that its error shows.
const MAX_EXCERPT_BYTES: usize = 200;

pub(super) type Sender = Client<Dial, Full<Bytes>>;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server has it.
    Done(Success),
    /// It may succeed later, not before the pause.
    Retry(HttpError, Option<Duration>),
    /// It will never succeed.
    Refused(HttpError),
}

/// A response that says that the server has the request.
#[derive(Debug)]
pub(super) struct Success {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) correlation: Option<Box<RawValue>>,
}

/// Sends an event as a request, and waits for its response.
pub(super) async fn exchange(sender: &Sender, settings: &Settings, event: &OutgoingEvent) -> Outcome {
    let outbound = match target::request(event, settings) {
        Ok(outbound) => outbound,
        Err(error) => return Outcome::Refused(error),
    };
    let described = outbound.describe();
    match timeout(settings.timeout, send(sender, settings, outbound, &described)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Retry(HttpError::Timeout { request: described, limit: settings.timeout }, None),
    }
}

async fn send(sender: &Sender, settings: &Settings, outbound: Outbound, described: &str) -> Outcome {
    let lost = |source| Outcome::Retry(HttpError::Connection { request: described.to_owned(), source }, None);
    let response = match sender.request(outbound.request).await {
        Ok(response) => response,
        Err(error) => return lost(error.into()),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let limit = settings.config.max_response_bytes;
    let body = match body(response, limit).await {
        Ok(body) => body,
        // The server has said that it has the request, so asking again would not help.
        Err(error) if error.is::<LengthLimitError>() && status.is_success() => {
            return Outcome::Refused(HttpError::TooLarge { request: described.to_owned(), limit });
        }
        Err(error) if error.is::<LengthLimitError>() => Bytes::new(),
        Err(error) => return lost(error),
    };
    judge(settings, described, status, headers, body, outbound.correlation)
}

async fn body(response: Response<Incoming>, limit: usize) -> Result<Bytes, crate::error::BoxError> {
    Ok(Limited::new(response.into_body(), limit).collect().await?.to_bytes())
}

fn judge(
    settings: &Settings,
    described: &str,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    correlation: Option<Box<RawValue>>,
) -> Outcome {
    if status.is_success() {
        return Outcome::Done(Success { status, headers, body, correlation });
    }
    let excerpt = match status.is_redirection() {
        true => redirection(&headers),
        false => excerpt(&body),
    };
    let error = HttpError::Status { request: described.to_owned(), status, excerpt };
    match is_temporary(status) || (status == StatusCode::NOT_FOUND && settings.config.retry_not_found) {
        true => Outcome::Retry(error, pause(&headers)),
        false => Outcome::Refused(error),
    }
}

fn is_temporary(status: StatusCode) -> bool {
    let is_asked = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || is_asked.contains(&status)
}

/// Returns the pause that a server asks for: seconds, or a date.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(clock::now()).unwrap_or_default(),
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

fn redirection(headers: &HeaderMap) -> String {
    let to = headers.get(LOCATION).map(headers::text).unwrap_or_default();
    format!(" to {}: redirections are not followed, declare the endpoint itself", shorten(&to))
}

fn excerpt(body: &[u8]) -> String {
    let text = shorten(&String::from_utf8_lossy(body.get(..MAX_EXCERPT_BYTES).unwrap_or(body)));
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Returns the start of a foreign text, in one line.
fn shorten(text: &str) -> String {
    let line: String = text.chars().take(MAX_EXCERPT_BYTES).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::config::HttpClientConfig;
    use super::*;

    fn judged(status: u16, retry_not_found: bool) -> Outcome {
        let mut config = HttpClientConfig::to("http://127.0.0.1:1");
        config.retry_not_found = retry_not_found;
        let settings = Settings::check(config).unwrap();
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        judge(&settings, "POST /", StatusCode::from_u16(status).unwrap(), headers, "no\nbad".into(), None)
    }

    #[test]
    fn the_status_decides() {
        for status in [200, 201, 202, 204, 299] {
            assert!(matches!(judged(status, false), Outcome::Done(_)), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            let outcome = judged(status, false);
            assert!(matches!(outcome, Outcome::Retry(_, Some(pause)) if pause.as_secs() == 7), "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 413, 422] {
            assert!(matches!(judged(status, false), Outcome::Refused(_)), "{status}");
        }
        assert!(matches!(judged(404, true), Outcome::Retry(..)));
        let Outcome::Refused(error) = judged(400, false) else { panic!("it is refused") };
        assert_eq!(error.to_string(), "POST /: the server answered 400 Bad Request: no bad");
    }

    #[test]
    fn a_pause_has_a_bound() {
        let asked = |text: &'static str| pause(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]));
        assert_eq!(asked("0"), Some(Duration::ZERO));
        assert_eq!(asked("86400"), Some(MAX_RETRY_AFTER));
        assert_eq!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("Tue, 31 Dec 2999 23:59:59 GMT"), Some(MAX_RETRY_AFTER));
        assert_eq!((asked("soon"), asked("-1"), pause(&HeaderMap::new())), (None, None, None));
    }
}
