//! The settings of the client, and their checks.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;

use super::target;
use crate::peer::PeerError;
use crate::peer::connectors::http::{Format, Secret, headers};
use crate::peer::connectors::token::Token;
use crate::peer::connectors::wire::TlsClientConfig;

/// Most requests at a time.
const MAX_CONCURRENCY: usize = 1_024;

/// What becomes of the responses to requests.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::{HttpClientConfig, Responses};
///
/// let mut config = HttpClientConfig::to("https://hooks.example/in");
/// assert_eq!(config.responses, Responses::Ignore);
/// config.responses = Responses::Emit;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Responses {
    /// They are dropped: the status alone counts.
    #[default]
    Ignore,
    /// Each response with a status of 200 to 299 arrives on the stream of its request, once.
    Emit,
}

/// Settings of a [`HttpClient`](super::HttpClient).
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::HttpClientConfig;
///
/// let config: HttpClientConfig = serde_json::from_str(
///     r#"{ "endpoint": "https://hooks.example/in", "method": "PUT", "path": "/orders", "responses": "emit" }"#,
/// )?;
/// assert_eq!(config.concurrency, 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpClientConfig {
    /// Scheme, host, port, and start of every path: `https://hooks.example:8443/in`. No event names another one.
    pub endpoint: String,
    /// TLS of an `https` endpoint.
    pub tls: TlsClientConfig,
    /// Method of a request whose event does not name one.
    pub method: String,
    /// Path behind the endpoint of a request whose event does not name one: empty, or with a slash at its start.
    pub path: String,
    /// Content type of a request whose event does not name one.
    pub content_type: String,
    /// Token that each request shows as `Authorization: Bearer <token>`.
    pub token: Option<Token>,
    /// Headers of every request; their values are secrets. An event cannot set them.
    pub request_headers: BTreeMap<String, Secret>,
    /// How a request stands in its event.
    pub request_format: Format,
    /// What becomes of the responses.
    pub responses: Responses,
    /// How a response stands in its event.
    pub response_format: Format,
    /// Headers of responses that the mapping can use as `{header.<name>}`, and that an envelope has.
    pub headers: Vec<String>,
    /// Whether each request has the id of its event as `idempotency-key`, so that the server can take it once.
    pub idempotency_key: bool,
    /// Most requests at a time. Above 1 the requests of a stream may overtake each other.
    pub concurrency: usize,
    /// Longest time from the start of a request to the end of its response, in milliseconds.
    pub timeout_ms: u64,
    /// Longest time to connect, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Largest body of a response, in bytes.
    pub max_response_bytes: usize,
    /// Whether a 404 is tried again; without it, the event goes into the quarantine.
    pub retry_not_found: bool,
}

impl Default for HttpClientConfig {
    fn default() -> Self {
        HttpClientConfig {
            endpoint: String::new(),
            tls: TlsClientConfig::default(),
            method: "POST".to_owned(),
            path: String::new(),
            content_type: "application/octet-stream".to_owned(),
            token: None,
            request_headers: BTreeMap::new(),
            request_format: Format::default(),
            responses: Responses::default(),
            response_format: Format::default(),
            headers: Vec::new(),
            idempotency_key: true,
            concurrency: 1,
            timeout_ms: 30_000,
            connect_timeout_ms: 10_000,
            max_response_bytes: 1 << 20,
            retry_not_found: false,
        }
    }
}

impl HttpClientConfig {
    /// Sends to this endpoint, with the defaults of everything else.
    pub fn to(endpoint: impl Into<String>) -> Self {
        HttpClientConfig { endpoint: endpoint.into(), ..HttpClientConfig::default() }
    }
}

/// The declared endpoint.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// The start of every path, without a slash at its end.
    pub(super) base: String,
}

impl Endpoint {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| Err(format!("endpoint {problem}: write https://host:port/path"));
        if text.contains(['#', '\\']) || text.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
            return wrong("has characters that no URL has");
        }
        let Ok(uri) = text.parse::<Uri>() else { return wrong("is no URL") };
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return wrong("is no whole URL") };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return wrong("is neither http nor https");
        }
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return wrong("names a user, or no host");
        }
        if parts.path_and_query.as_ref().is_some_and(|path| path.query().is_some()) {
            return wrong("has a query");
        }
        let base = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/').to_owned();
        if !base.is_empty() {
            target::check_path(&base).map_err(|error| error.to_string())?;
        }
        Ok(Endpoint { scheme, authority, base })
    }

    /// Returns the port of the endpoint.
    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

/// The settings, checked and in the types that requests need.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: HttpClientConfig,
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    /// Headers of every request, with the token.
    pub(super) fixed: HeaderMap,
    pub(super) content_type: HeaderValue,
    pub(super) listed: Vec<HeaderName>,
    pub(super) header_fields: Vec<&'static str>,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
}

pub(super) const NAME: &str = "http-client";

impl Settings {
    pub(super) fn check(config: HttpClientConfig) -> Result<Self, PeerError> {
        Self::checked(config).map_err(|problem| PeerError::setup(NAME, problem))
    }

    fn checked(config: HttpClientConfig) -> Result<Self, String> {
        let endpoint = Endpoint::read(&config.endpoint)?;
        let method = target::method(&config.method).map_err(|error| error.to_string())?;
        if !config.path.is_empty() {
            target::check_path(&config.path).map_err(|error| error.to_string())?;
        }
        if config.concurrency == 0 || config.concurrency > MAX_CONCURRENCY {
            return Err(format!("concurrency is {}: choose 1 to {MAX_CONCURRENCY}", config.concurrency));
        }
        if config.timeout_ms == 0 || config.connect_timeout_ms == 0 || config.max_response_bytes == 0 {
            return Err("timeout_ms, connect_timeout_ms and max_response_bytes must be above 0".to_owned());
        }
        let content_type = HeaderValue::from_str(&config.content_type);
        let listed = headers::names(&config.headers)?;
        Ok(Settings {
            endpoint,
            method,
            fixed: fixed(&config)?,
            content_type: content_type.map_err(|_| "content_type is no value of a header".to_owned())?,
            header_fields: listed.iter().map(headers::field_of).collect(),
            listed,
            timeout: Duration::from_millis(config.timeout_ms),
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            config,
        })
    }
}

/// Returns the headers of every request.
fn fixed(config: &HttpClientConfig) -> Result<HeaderMap, String> {
    let mut fixed = HeaderMap::new();
    for (name, value) in &config.request_headers {
        let parsed: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        if headers::is_of_the_connection(&parsed) || parsed == HOST || parsed == CONTENT_TYPE {
            return Err(format!("request_headers cannot set {name:?}"));
        }
        fixed.insert(parsed, secret(value).ok_or_else(|| format!("{name:?} has a value that no header has"))?);
    }
    if let Some(token) = &config.token {
        let value = secret(&Secret::new(format!("Bearer {}", token.read()?)));
        fixed.insert(AUTHORIZATION, value.ok_or_else(|| "the token is no value of a header".to_owned())?);
    }
    Ok(fixed)
}

fn secret(text: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text.text()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_host_port_and_path() {
        let endpoint = Endpoint::read("https://hooks.example:8443/in/").unwrap();
        assert_eq!((endpoint.authority.as_str(), endpoint.base.as_str()), ("hooks.example:8443", "/in"));
        assert_eq!((endpoint.port(), endpoint.is_tls()), (8443, true));
        assert_eq!(Endpoint::read("http://[::1]").unwrap().port(), 80);
        for wrong in [
            "",
            "hooks.example",
            "/in",
            "ftp://hooks.example",
            "https://user:secret@hooks.example",
            "https://hooks.example/in?a=1",
            "https://hooks.example/in#a",
            "https://hooks.example/../in",
            "https://hooks.example\\in",
            "https://",
        ] {
            assert!(Endpoint::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let problem = |change: &dyn Fn(&mut HttpClientConfig)| {
            let mut config = HttpClientConfig::to("http://127.0.0.1:1");
            change(&mut config);
            Settings::check(config).map(|_| ()).unwrap_err().to_string()
        };
        assert!(problem(&|config| config.concurrency = 0).contains("concurrency"));
        assert!(problem(&|config| config.timeout_ms = 0).contains("timeout_ms"));
        assert!(problem(&|config| config.method = "CONNECT".to_owned()).contains("method"));
        assert!(problem(&|config| config.path = "orders".to_owned()).contains("path"));
        assert!(problem(&|config| config.content_type = "a\nb".to_owned()).contains("content_type"));
        let host = BTreeMap::from([("Host".to_owned(), Secret::new("elsewhere"))]);
        assert!(problem(&|config| config.request_headers = host.clone()).contains("Host"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = HttpClientConfig::to("http://127.0.0.1:1");
        config.token = Some(Token::text("do not show me"));
        config.request_headers.insert("x-key".to_owned(), Secret::new("nor me"));
        let shown = format!("{:?}", Settings::check(config).unwrap());
        assert!(!shown.contains("show me") && !shown.contains("nor me"), "{shown}");
    }
}
