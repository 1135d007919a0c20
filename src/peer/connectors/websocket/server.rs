//! The WebSocket server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::messages::{Manner, converse};
use super::upgrade::Door;
use super::{MessageKind, WsLimits};
use crate::peer::connectors::tcp::{
    Announcement, LocalAddress, Options, bind, default_keep_alive_ms, default_nodelay, host_of,
};
use crate::peer::connectors::token::{Expected, Token};
use crate::peer::connectors::wire::{
    Bounds, Metered, ServerTls, SocketTimeouts, Terms, TlsServerConfig, listen, load_again, secure, some_ms,
};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session, StreamFacts, StreamId};

/// Settings of a [`WsServer`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::{MessageKind, WsServerConfig};
///
/// let config: WsServerConfig = serde_json::from_str(
///     r#"{ "address": "127.0.0.1:7001", "path": "/events", "send": "text", "token": { "file": "/run/secrets/ws" } }"#,
/// )?;
/// assert_eq!((config.path.as_deref(), config.send), (Some("/events"), MessageKind::Text));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WsServerConfig {
    /// Address as `host:port`; port 0 lets the system choose.
    pub address: String,
    /// Path that clients must ask for; any other gets status 404. Without it, every path is taken.
    #[serde(default)]
    pub path: Option<String>,
    /// Subprotocol that clients must offer; without the offer they get status 400.
    #[serde(default)]
    pub subprotocol: Option<String>,
    /// Values of the header `Origin` of pages that may connect; any other client, also one without the header, gets
    /// status 403. Empty: the header does not count.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Token that clients must send as `Authorization: Bearer`; without it they get status 401.
    #[serde(default)]
    pub token: Option<Token>,
    /// Kind of the messages that are sent. Default: binary.
    #[serde(default)]
    pub send: MessageKind,
    /// Bounds of messages, and the pings.
    #[serde(default)]
    pub limits: WsLimits,
    /// Whether small writes go out at once. Default: true.
    #[serde(default = "default_nodelay")]
    pub nodelay: bool,
    /// Time without data after which the system asks whether the other side is still there, in milliseconds; 0 turns
    /// the question off. Default: 60,000.
    #[serde(default = "default_keep_alive_ms")]
    pub keep_alive_ms: u64,
    /// TLS. Without it, the server speaks plain TCP.
    #[serde(default)]
    pub tls: Option<TlsServerConfig>,
    /// Bounds of each connection.
    #[serde(default)]
    pub timeouts: SocketTimeouts,
}

impl WsServerConfig {
    /// Listens at this address, as `host:port`, without TLS, for everybody.
    pub fn new(address: impl Into<String>) -> Self {
        WsServerConfig {
            address: address.into(),
            path: None,
            subprotocol: None,
            origins: Vec::new(),
            token: None,
            send: MessageKind::default(),
            limits: WsLimits::default(),
            nodelay: default_nodelay(),
            keep_alive_ms: default_keep_alive_ms(),
            tls: None,
            timeouts: SocketTimeouts::default(),
        }
    }

    /// Takes this path alone.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Demands a token.
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

    /// Speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsServerConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the bounds of messages, and the pings.
    #[must_use]
    pub fn limits(mut self, limits: WsLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the bounds of each connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Takes WebSocket connections. Each one is a stream with an id of its own and the facts `remote` and `path`; each
/// message, text or binary, is one arrival.
///
/// A sent event counts as delivered when the system has taken its bytes. Connections end with code 1000 when nothing
/// more is to be sent, 1001 at a stop, 1002 or 1007 after a breach of the protocol, 1008 after silence and lost frames,
/// 1009 after too large a message, and 1011 after an error of this side.
///
/// # Units and limits
///
/// As many connections as the peer's `streams`. [`WsLimits`] has the sizes, [`SocketTimeouts`] the times. Each quiet
/// connection holds about 4 KiB for reading, and as much for writing as its largest message had.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{WsServer, WsServerConfig};
///
/// let server = WsServer::new(WsServerConfig::new("127.0.0.1:7001").path("/events"))?;
/// assert_eq!((server.name(), server.endpoint().as_str()), ("ws-server", "ws://127.0.0.1:7001/events"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct WsServer {
    config: WsServerConfig,
    announcement: Announcement,
}

const NAME: &str = "ws-server";

impl WsServer {
    /// Makes a server. It binds when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the address is not one, or the token or files of TLS cannot be used.
    pub fn new(config: WsServerConfig) -> Result<Self, PeerError> {
        host_of(NAME, &config.address)?;
        door(&config).map_err(|problem| PeerError::setup(NAME, problem))?;
        if let Some(tls) = &config.tls {
            ServerTls::load(tls.clone()).map_err(|error| PeerError::setup(NAME, error.to_string()))?;
        }
        Ok(WsServer { config, announcement: Announcement::new() })
    }

    /// Returns where the server listens.
    #[must_use]
    pub fn local_address(&self) -> LocalAddress {
        self.announcement.subscribe()
    }
}

fn door(config: &WsServerConfig) -> Result<Door, String> {
    let subprotocol = config.subprotocol.as_deref().map(HeaderValue::from_str).transpose();
    Ok(Door {
        path: config.path.clone(),
        origins: config.origins.clone(),
        token: config.token.as_ref().map(Token::read).transpose()?.map(|token| Expected::new(&token)),
        subprotocol: subprotocol.map_err(|error| format!("subprotocol: {error}"))?,
    })
}

#[async_trait]
impl Connector for WsServer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        let scheme = if self.config.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.config.address, self.config.path.as_deref().unwrap_or_default())
    }

    fn role(&self) -> Role {
        Role::Server
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let config = &self.config;
        let options = Options { nodelay: config.nodelay, keep_alive: some_ms(config.keep_alive_ms) };
        let (listener, address) = bind(&config.address, options).await?;
        let _told = self.announcement.tell(address);
        let endpoint: Arc<str> = self.endpoint().into();
        let server = Arc::new(Shared {
            tls: load_again(config.tls.as_ref())?,
            door: door(config).map_err(|problem| ConnectorError::connect("read the token", problem))?,
            protocol: config.limits.protocol(),
            manner: Manner::new(config.send, &config.limits),
            terms: Terms::new(&session, &endpoint, &config.timeouts),
            handshake_timeout: config.timeouts.handshake(),
            session: session.clone(),
        });
        session.connected();
        listen(listener, Bounds::new(&session, &endpoint), |socket, facts| Arc::clone(&server).serve(socket, facts))
            .await;
        Ok(())
    }
}

/// What all connections of one life share.
struct Shared {
    session: Session,
    tls: Option<ServerTls>,
    door: Door,
    protocol: WebSocketConfig,
    manner: Manner,
    terms: Terms,
    handshake_timeout: Duration,
}

impl Shared {
    async fn serve(self: Arc<Self>, socket: TcpStream, facts: StreamFacts) {
        let (socket, pulse) = Metered::new(socket);
        let shaking_hands = async {
            let wire = secure(self.tls.as_ref(), socket, self.handshake_timeout).await;
            let wire = wire.map_err(|error| self.terms.turn_away(&facts, &error)).ok()?;
            let opened = self.door.open(wire, self.protocol, self.handshake_timeout).await;
            opened.map_err(|error| self.terms.turn_away(&facts, &error)).ok()
        };
        let opened = tokio::select! {
            () = self.terms.stopping.cancelled() => None,
            opened = shaking_hands => opened,
        };
        let Some((socket, path)) = opened else { return };
        pulse.whole();
        let facts = facts.with("path", path);
        match self.session.open(StreamId::unique(), facts.clone()).await {
            Ok(stream) => {
                let ended = converse(socket, &pulse, stream, &self.terms, &self.manner).await;
                ended.note(&self.terms.endpoint);
            }
            Err(error) => self.terms.turn_away(&facts, &error),
        }
    }
}
