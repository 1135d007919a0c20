//! The connectors of HTTP: a server whose requests are events and whose answers are events, and a client that makes a
//! request of each event.

mod client;
mod envelope;
mod error;
mod headers;
mod secret;
mod server;

use serde::Deserialize;

pub use self::client::{HttpClient, HttpClientConfig, MAX_RETRY_AFTER, Responses};
pub use self::error::HttpError;
pub use self::headers::{MAX_ENVELOPE_HEADERS, MAX_LISTED_HEADERS};
pub use self::secret::Secret;
pub use self::server::{
    HttpMode, HttpServer, HttpServerConfig, LANE_QUEUE, MAX_KEPT_ANSWERS, MAX_LANES, MAX_STREAMS, MIN_TOKEN_BYTES,
    Route,
};

/// How a request or a response stands in the value of an event.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::{Format, HttpServerConfig};
///
/// let mut config = HttpServerConfig::at("127.0.0.1:8080");
/// config.request_format = Format::Envelope;
/// assert_eq!(config.response_format, Format::Raw);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// The value is the body, byte by byte, after the peer's interceptors and codec.
    #[default]
    Raw,
    /// The value is a JSON object with `headers`, `body` (a JSON value, or a text) or `body_base64`, and the parts of
    /// a request (`method`, `path`, `query`) or of a response (`status`). Interceptors and codec do not apply.
    Envelope,
}
