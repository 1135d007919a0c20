//! The TCP client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Options, default_keep_alive_ms, default_nodelay, host_of};
use crate::peer::connectors::wire::{
    ClientTls, Metered, Pulse, SocketTimeouts, Terms, TlsClientConfig, TlsError, Wire, converse, some_ms,
};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session, StreamFacts};

/// Longest time of an attempt to connect, in milliseconds, without a setting.
const CONNECT_TIMEOUT_MS: u64 = 5_000;

pub(crate) fn default_connect_timeout_ms() -> u64 {
    CONNECT_TIMEOUT_MS
}

/// Settings of a [`TcpClient`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::TcpClientConfig;
///
/// let config: TcpClientConfig = serde_json::from_str(r#"{ "address": "hub.example:7000", "tls": {} }"#)?;
/// assert_eq!(config.connect_timeout_ms, 5_000);
/// assert!(config.tls.is_some(), "it trusts the authorities of the system");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpClientConfig {
    /// Address as `host:port`.
    pub address: String,
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
    /// TLS. Without it, the client speaks plain TCP.
    #[serde(default)]
    pub tls: Option<TlsClientConfig>,
    /// Bounds of the connection.
    #[serde(default)]
    pub timeouts: SocketTimeouts,
}

impl TcpClientConfig {
    /// Connects to this address, as `host:port`, without TLS.
    pub fn new(address: impl Into<String>) -> Self {
        TcpClientConfig {
            address: address.into(),
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            nodelay: default_nodelay(),
            keep_alive_ms: default_keep_alive_ms(),
            tls: None,
            timeouts: SocketTimeouts::default(),
        }
    }

    /// Speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the bounds of the connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Connects to a TCP server: one connection for each stream of the peer. What is not sent waits for the next
/// connection.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{TcpClient, TcpClientConfig};
///
/// let client = TcpClient::new(TcpClientConfig::new("hub.example:7000"))?;
/// assert_eq!((client.name(), client.endpoint().as_str()), ("tcp-client", "hub.example:7000"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct TcpClient {
    config: TcpClientConfig,
}

const NAME: &str = "tcp-client";

impl TcpClient {
    /// Makes a client. It connects when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the address is not one, or files of TLS cannot be used.
    pub fn new(config: TcpClientConfig) -> Result<Self, PeerError> {
        let host = host_of(NAME, &config.address)?;
        if let Some(tls) = &config.tls {
            ClientTls::load(tls, host).map_err(|error| PeerError::setup(NAME, error.to_string()))?;
        }
        Ok(TcpClient { config })
    }
}

#[async_trait]
impl Connector for TcpClient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.config.address.clone()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn keeps_stream_ids(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let config = &self.config;
        let to = Dial {
            address: &config.address,
            host: host_of(NAME, &config.address)?,
            options: Options { nodelay: config.nodelay, keep_alive: some_ms(config.keep_alive_ms) },
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            handshake_timeout: config.timeouts.handshake(),
            tls: config.tls.as_ref(),
        };
        let stopping = session.stopping();
        let (wire, pulse) = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            dialled = dial(&to) => dialled?,
        };
        let facts = StreamFacts::new().with("remote", config.address.as_str());
        let stream = session.open(session.stream().clone(), facts).await?;
        session.connected();
        let endpoint: Arc<str> = config.address.as_str().into();
        let terms = Terms::new(&session, &endpoint, &config.timeouts);
        converse(wire, &pulse, stream, &terms).await.of_client(&endpoint)
    }
}

/// An attempt to connect.
pub(crate) struct Dial<'a> {
    pub(crate) address: &'a str,
    pub(crate) host: &'a str,
    pub(crate) options: Options,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) tls: Option<&'a TlsClientConfig>,
}

/// Connects, and runs the handshake of TLS if there is TLS.
pub(crate) async fn dial(to: &Dial<'_>) -> Result<(Wire, Arc<Pulse>), ConnectorError> {
    let failed = |error: io::Error| ConnectorError::connect(format!("connect to {}", to.address), error);
    let socket = match timeout(to.connect_timeout, TcpStream::connect(to.address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
    };
    to.options.apply(&socket);
    let (socket, pulse) = Metered::new(socket);
    let wire: Wire = match to.tls {
        None => Box::new(socket),
        Some(tls) => {
            let failed = |error: TlsError| ConnectorError::connect(format!("speak TLS with {}", to.address), error);
            let tls = ClientTls::load(tls, to.host).map_err(failed)?;
            tls.connect(socket, to.handshake_timeout).await.map_err(failed)?
        }
    };
    pulse.whole();
    Ok((wire, pulse))
}
