//! The settings of the server, and their checks.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use super::routes::{Route, Routes};
use crate::peer::PeerError;
use crate::peer::connectors::http::Format;
use crate::peer::connectors::http::headers;
use crate::peer::connectors::token::{Expected, Token};
use crate::peer::connectors::wire::TlsServerConfig;

/// Most lanes of a server.
pub const MAX_LANES: usize = 256;

/// Shortest token, in bytes.
pub const MIN_TOKEN_BYTES: usize = 16;

/// Smallest buffer that the reader of HTTP/1 works with, in bytes.
const MIN_HEADER_BYTES: usize = 8 << 10;

/// What a request waits for.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::{HttpMode, HttpServerConfig};
///
/// let mut config = HttpServerConfig::at("127.0.0.1:8080");
/// assert_eq!(config.mode, HttpMode::Answer);
/// config.mode = HttpMode::Accept;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HttpMode {
    /// For the commit of its events: the response is 202.
    Accept,
    /// For an answer: an event in the eventbox of the request's stream.
    #[default]
    Answer,
}

/// Settings of a [`HttpServer`](super::HttpServer).
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::HttpServerConfig;
///
/// let config: HttpServerConfig = serde_json::from_str(
///     r#"{ "address": "127.0.0.1:8080", "mode": "answer", "routes": [{ "path": "/orders", "methods": ["POST"] }] }"#,
/// )?;
/// assert_eq!(config.answer_deadline_ms, 30_000);
/// assert!(serde_json::from_str::<HttpServerConfig>(r#"{ "adress": "127.0.0.1:8080" }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpServerConfig {
    /// Address to listen on, as `host:port`. Port 0 takes a free port.
    pub address: String,
    /// TLS. Without it, the server speaks plain HTTP.
    pub tls: Option<TlsServerConfig>,
    /// Paths and methods that are served; empty for all.
    pub routes: Vec<Route>,
    /// Token that each request must show as `Authorization: Bearer <token>`, at least [`MIN_TOKEN_BYTES`]. Without it,
    /// everybody who reaches the address may send.
    pub token: Option<Token>,
    /// What a request waits for.
    pub mode: HttpMode,
    /// How a request stands in its event.
    pub request_format: Format,
    /// How an answer stands in its event.
    pub response_format: Format,
    /// Content type of a response whose answer does not name one.
    pub response_content_type: String,
    /// Headers of requests that the mapping can use as `{header.<name>}`, and that an envelope has.
    pub headers: Vec<String>,
    /// Whether the header `idempotency-key` names the events, so that a request that is sent again is taken once.
    pub idempotency_key: bool,
    /// Status for a request that yields no event: 204 or 422.
    pub no_events_status: u16,
    /// Number of streams that share the requests, 1 to [`MAX_LANES`]. The requests of one stream are emitted one after
    /// the other.
    pub lanes: usize,
    /// Longest wait for the commit of a request's events, in milliseconds; then 503.
    pub emit_deadline_ms: u64,
    /// Longest wait for an answer after the request was read, in milliseconds; then 504.
    pub answer_deadline_ms: u64,
    /// Time that requests have for their answer after a stop was asked, in milliseconds; then 503.
    pub stop_grace_ms: u64,
    /// Most open connections. The server closes further ones.
    pub connections: usize,
    /// Most requests at a time, from all connections. Further ones get 503.
    pub requests: usize,
    /// Largest body of a request, in bytes; a larger one gets 413.
    pub max_body_bytes: usize,
    /// Longest time from the head of a request to the end of its body, in milliseconds; then 408.
    pub body_timeout_ms: u64,
    /// Longest time without a request on a connection, in milliseconds; then it is closed. A request counts from the
    /// end of its head, so this bounds slow heads and idle connections.
    pub head_timeout_ms: u64,
    /// Largest head of a request, in bytes, at least 8,192.
    pub max_header_bytes: usize,
    /// Most header lines of a request.
    pub max_headers: usize,
}

impl Default for HttpServerConfig {
    fn default() -> Self {
        HttpServerConfig {
            address: String::new(),
            tls: None,
            routes: Vec::new(),
            token: None,
            mode: HttpMode::default(),
            request_format: Format::default(),
            response_format: Format::default(),
            response_content_type: "application/octet-stream".to_owned(),
            headers: Vec::new(),
            idempotency_key: true,
            no_events_status: 422,
            lanes: 16,
            emit_deadline_ms: 10_000,
            answer_deadline_ms: 30_000,
            stop_grace_ms: 500,
            connections: 10_000,
            requests: 1_024,
            max_body_bytes: 1 << 20,
            body_timeout_ms: 30_000,
            head_timeout_ms: 30_000,
            max_header_bytes: 32 << 10,
            max_headers: 100,
        }
    }
}

impl HttpServerConfig {
    /// Listens at this address, as `host:port`, with the defaults of everything else.
    pub fn at(address: impl Into<String>) -> Self {
        HttpServerConfig { address: address.into(), ..HttpServerConfig::default() }
    }
}

/// The settings, checked and in the types that requests need.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) token: Option<Expected>,
    pub(super) config: HttpServerConfig,
    pub(super) routes: Routes,
    pub(super) headers: Vec<HeaderName>,
    /// The keys of the listed headers for the mapping.
    pub(super) header_fields: Vec<&'static str>,
    pub(super) content_type: HeaderValue,
    pub(super) no_events: StatusCode,
    pub(super) emit_deadline: Duration,
    pub(super) answer_deadline: Duration,
    pub(super) body_timeout: Duration,
    pub(super) head_timeout: Duration,
    pub(super) stop_grace: Duration,
}

pub(super) const NAME: &str = "http-server";

impl Settings {
    pub(super) fn check(config: HttpServerConfig) -> Result<Self, PeerError> {
        let wrong = |problem: String| PeerError::setup(NAME, problem);
        config.check_numbers().map_err(wrong)?;
        let token = config.token.as_ref().map(Token::read).transpose().map_err(wrong)?;
        if let Some(bytes) = token.as_ref().map(String::len).filter(|bytes| *bytes < MIN_TOKEN_BYTES) {
            return Err(wrong(format!(
                "the token has {bytes} bytes; choose a random one of at least {MIN_TOKEN_BYTES}"
            )));
        }
        let content_type = HeaderValue::from_str(&config.response_content_type)
            .map_err(|_| wrong("response_content_type is no value of a header".to_owned()))?;
        let names = headers::names(&config.headers).map_err(wrong)?;
        Ok(Settings {
            token: token.as_deref().map(Expected::new),
            routes: Routes::new(&config.routes).map_err(wrong)?,
            header_fields: names.iter().map(headers::field_of).collect(),
            headers: names,
            content_type,
            no_events: StatusCode::from_u16(config.no_events_status).map_err(|error| wrong(error.to_string()))?,
            emit_deadline: Duration::from_millis(config.emit_deadline_ms),
            answer_deadline: Duration::from_millis(config.answer_deadline_ms),
            body_timeout: Duration::from_millis(config.body_timeout_ms),
            head_timeout: Duration::from_millis(config.head_timeout_ms),
            stop_grace: Duration::from_millis(config.stop_grace_ms),
            config,
        })
    }
}

impl HttpServerConfig {
    fn check_numbers(&self) -> Result<(), String> {
        if self.address.is_empty() {
            return Err("address is missing: set it to host:port".to_owned());
        }
        if self.lanes == 0 || self.lanes > MAX_LANES {
            return Err(format!("lanes is {}: choose 1 to {MAX_LANES}", self.lanes));
        }
        if ![204, 422].contains(&self.no_events_status) {
            return Err(format!("no_events_status is {}: choose 204 or 422", self.no_events_status));
        }
        if self.max_header_bytes < MIN_HEADER_BYTES || u32::try_from(self.max_header_bytes).is_err() {
            return Err(format!("max_header_bytes is {}: choose at least {MIN_HEADER_BYTES}", self.max_header_bytes));
        }
        let above_zero = [
            ("emit_deadline_ms", self.emit_deadline_ms > 0),
            ("answer_deadline_ms", self.answer_deadline_ms > 0),
            ("body_timeout_ms", self.body_timeout_ms > 0),
            ("head_timeout_ms", self.head_timeout_ms > 0),
            ("connections", self.connections > 0),
            ("requests", self.requests > 0),
            ("max_body_bytes", self.max_body_bytes > 0),
            ("max_headers", self.max_headers > 0),
        ];
        match above_zero.iter().find(|(_, is_fine)| !is_fine) {
            Some((name, _)) => Err(format!("{name} is 0: choose a number above it")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut HttpServerConfig)) -> String {
        let mut config = HttpServerConfig::at("127.0.0.1:0");
        change(&mut config);
        Settings::check(config).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_setting_is_named() {
        assert!(problem(|config| config.address.clear()).contains("address"));
        assert!(problem(|config| config.lanes = 0).contains("lanes"));
        assert!(problem(|config| config.lanes = MAX_LANES + 1).contains("lanes"));
        assert!(problem(|config| config.no_events_status = 200).contains("no_events_status"));
        assert!(problem(|config| config.body_timeout_ms = 0).contains("body_timeout_ms"));
        assert!(problem(|config| config.token = Some(Token::text("short"))).contains("token"));
        assert!(problem(|config| config.headers = vec!["a b".to_owned()]).contains("a b"));
        assert!(problem(|config| config.response_content_type = "a\nb".to_owned()).contains("content_type"));
        assert!(Settings::check(HttpServerConfig::at("127.0.0.1:0")).is_ok());
    }

    #[test]
    fn listed_headers_are_fields_of_the_mapping() {
        let mut config = HttpServerConfig::at("127.0.0.1:0");
        config.headers = vec!["X-Tenant".to_owned()];
        assert_eq!(Settings::check(config).unwrap().header_fields, ["header.x-tenant"]);
    }
}
