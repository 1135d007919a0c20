//! The WebSocket client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::messages::{Manner, converse};
use super::{MessageKind, WsLimits};
use crate::peer::connectors::tcp::{
    Dial, Options, default_connect_timeout_ms, default_keep_alive_ms, default_nodelay, dial,
};
use crate::peer::connectors::token::Token;
use crate::peer::connectors::wire::{ClientTls, Pulse, SocketTimeouts, Terms, TlsClientConfig, Wire, some_ms};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session, StreamFacts};

/// Settings of a [`WsClient`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::WsClientConfig;
///
/// let config: WsClientConfig = serde_json::from_str(r#"{ "url": "wss://hub.example/events" }"#)?;
/// assert_eq!(config, WsClientConfig::new("wss://hub.example/events"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WsClientConfig {
    /// Address as `ws://host:port/path`, or `wss://` for TLS. Without a port: 80, or 443 with TLS.
    pub url: String,
    /// Subprotocol that the server must speak.
    #[serde(default)]
    pub subprotocol: Option<String>,
    /// Token that is sent as `Authorization: Bearer`.
    #[serde(default)]
    pub token: Option<Token>,
    /// Kind of the messages that are sent. Default: binary.
    #[serde(default)]
    pub send: MessageKind,
    /// Bounds of messages, and the pings.
    #[serde(default)]
    pub limits: WsLimits,
    /// Longest time of an attempt to connect, in milliseconds. Default: 5,000.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// Whether small writes go out at once. Default: true.
    #[serde(default = "default_nodelay")]
    pub nodelay: bool,
    /// Time without data after which the system asks whether the other side is still there, in milliseconds; 0 turns
    /// the question off. Default: 60,000.
    #[serde(default = "default_keep_alive_ms")]
    pub keep_alive_ms: u64,
    /// Whom to trust, for `wss://`. Without it, the authorities of the system.
    #[serde(default)]
    pub tls: Option<TlsClientConfig>,
    /// Bounds of the connection.
    #[serde(default)]
    pub timeouts: SocketTimeouts,
}

impl WsClientConfig {
    /// Connects to this URL, `ws://…` or `wss://…`.
    pub fn new(url: impl Into<String>) -> Self {
        WsClientConfig {
            url: url.into(),
            subprotocol: None,
            token: None,
            send: MessageKind::default(),
            limits: WsLimits::default(),
            connect_timeout_ms: default_connect_timeout_ms(),
            nodelay: default_nodelay(),
            keep_alive_ms: default_keep_alive_ms(),
            tls: None,
            timeouts: SocketTimeouts::default(),
        }
    }

    /// Sends this token.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sends messages of this kind.
    #[must_use]
    pub fn send(mut self, kind: MessageKind) -> Self {
        self.send = kind;
        self
    }

    /// Sets whom to trust, for `wss://`.
    #[must_use]
    pub fn tls(mut self, tls: TlsClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the bounds of messages, and the pings.
    #[must_use]
    pub fn limits(mut self, limits: WsLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the bounds of the connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Connects to a WebSocket server: one connection for each stream of the peer. What is not sent waits for the next
/// connection.
///
/// A server that answers with status 401 or 403 is not asked again. After any other status the client tries again by
/// the peer's [`Reconnect`](crate::peer::Reconnect).
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{WsClient, WsClientConfig};
///
/// let client = WsClient::new(WsClientConfig::new("ws://hub.example/events?key=1"))?;
/// assert_eq!((client.name(), client.endpoint().as_str()), ("ws-client", "ws://hub.example:80/events"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct WsClient {
    config: WsClientConfig,
    target: Target,
}

/// The parts of a URL.
#[derive(Debug)]
struct Target {
    uri: Uri,
    host: String,
    address: String,
    tls: Option<TlsClientConfig>,
}

const NAME: &str = "ws-client";

impl WsClient {
    /// Makes a client. It connects when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the URL is not one, or the token or files of TLS cannot be used.
    pub fn new(config: WsClientConfig) -> Result<Self, PeerError> {
        let made = Target::new(&config).and_then(|target| {
            request(&config, &target)?;
            Ok(target)
        });
        let target = made.map_err(|problem| PeerError::setup(NAME, problem))?;
        Ok(WsClient { config, target })
    }
}

impl Target {
    fn new(config: &WsClientConfig) -> Result<Self, String> {
        let wrong = || format!("url {:?} is not one: write ws://host:port/path or wss://host:port/path", config.url);
        let uri: Uri = config.url.parse().map_err(|_| wrong())?;
        let (is_secure, default_port) = match uri.scheme_str() {
            Some("ws") => (false, 80),
            Some("wss") => (true, 443),
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("the url has a user in it: use token".to_owned());
        }
        let tls = match (is_secure, &config.tls) {
            (true, tls) => Some(tls.clone().unwrap_or_default()),
            (false, None) => None,
            (false, Some(_)) => return Err("tls goes with a url of wss://".to_owned()),
        };
        let host = authority.host().to_owned();
        if let Some(tls) = &tls {
            ClientTls::load(tls, &host).map_err(|error| error.to_string())?;
        }
        let address = format!("{host}:{}", authority.port_u16().unwrap_or(default_port));
        Ok(Target { host, address, tls, uri })
    }
}

fn request(config: &WsClientConfig, target: &Target) -> Result<ClientRequestBuilder, String> {
    let mut request = ClientRequestBuilder::new(target.uri.clone());
    if let Some(token) = &config.token {
        let header = format!("Bearer {}", token.read()?);
        request = request.with_header(AUTHORIZATION.as_str(), header);
    }
    if let Some(subprotocol) = &config.subprotocol {
        HeaderValue::from_str(subprotocol).map_err(|error| format!("subprotocol: {error}"))?;
        request = request.with_sub_protocol(subprotocol);
    }
    Ok(request)
}

#[async_trait]
impl Connector for WsClient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        let scheme = if self.target.tls.is_some() { "wss" } else { "ws" };
        // Without the query, which may have a secret.
        format!("{scheme}://{}{}", self.target.address, self.target.uri.path())
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn keeps_stream_ids(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let endpoint: Arc<str> = self.endpoint().into();
        let stopping = session.stopping();
        let (socket, pulse) = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            connected = self.connect(&endpoint) => connected?,
        };
        let facts = StreamFacts::new().with("remote", &*self.target.address).with("path", self.target.uri.path());
        let stream = session.open(session.stream().clone(), facts).await?;
        session.connected();
        let terms = Terms::new(&session, &endpoint, &self.config.timeouts);
        let manner = Manner::new(self.config.send, &self.config.limits);
        converse(socket, &pulse, stream, &terms, &manner).await.of_client(&endpoint)
    }
}

impl WsClient {
    async fn connect(&self, endpoint: &str) -> Result<(WebSocketStream<Wire>, Arc<Pulse>), ConnectorError> {
        let (config, target) = (&self.config, &self.target);
        let to = Dial {
            address: &target.address,
            host: &target.host,
            options: Options { nodelay: config.nodelay, keep_alive: some_ms(config.keep_alive_ms) },
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            handshake_timeout: config.timeouts.handshake(),
            tls: target.tls.as_ref(),
        };
        let (wire, pulse) = dial(&to).await?;
        let request = request(config, target).map_err(|problem| ConnectorError::connect("read the token", problem))?;
        let upgrade = Box::pin(client_async_with_config(request, wire, Some(config.limits.protocol())));
        let attempt = || format!("speak WebSocket with {endpoint}");
        match timeout(to.handshake_timeout, upgrade).await {
            Ok(Ok((socket, _))) => {
                pulse.whole();
                Ok((socket, pulse))
            }
            Ok(Err(WsError::Http(answer))) => Err(refusal(endpoint, answer.status(), attempt())),
            Ok(Err(error)) => Err(ConnectorError::connect(attempt(), error)),
            Err(_) => {
                Err(ConnectorError::connect(attempt(), io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
            }
        }
    }
}

fn refusal(endpoint: &str, status: StatusCode, attempt: String) -> ConnectorError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ConnectorError::refused(format!("{endpoint} refuses this client with status {status}: check the token"))
        }
        _ => ConnectorError::connect(attempt, format!("the server answered with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(config: WsClientConfig) -> String {
        WsClient::new(config).unwrap_err().to_string()
    }

    #[test]
    fn a_url_says_where_and_how_and_no_secret_is_shown() {
        let client = WsClient::new(WsClientConfig::new("ws://[::1]:9/a?key=secret")).unwrap();
        assert_eq!((client.endpoint().as_str(), client.target.host.as_str()), ("ws://[::1]:9/a", "[::1]"));
        for url in ["", "hub.example", "http://hub.example/", "ws:///path"] {
            assert!(problem_of(WsClientConfig::new(url)).contains("ws://host:port/path"), "{url}");
        }
        assert!(problem_of(WsClientConfig::new("ws://me:secret@hub.example/")).contains("use token"));
        let tls = WsClientConfig::new("ws://hub.example/").tls(TlsClientConfig::default());
        assert!(problem_of(tls).contains("wss://"));
    }
}
