//! The TCP server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};

use super::{Announcement, LocalAddress, Options, default_keep_alive_ms, default_nodelay, host_of};
use crate::peer::connectors::wire::{
    Accept, Bounds, Metered, ServerTls, SocketTimeouts, Terms, TlsServerConfig, converse, listen, load_again, secure,
    some_ms,
};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session, StreamFacts, StreamId};

/// Settings of a [`TcpServer`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::TcpServerConfig;
///
/// let config: TcpServerConfig = serde_json::from_str(r#"{ "address": "127.0.0.1:7000" }"#)?;
/// assert_eq!(config, TcpServerConfig::new("127.0.0.1:7000"));
/// let misspelt = serde_json::from_str::<TcpServerConfig>(r#"{ "adress": "127.0.0.1:7000" }"#);
/// assert!(misspelt.unwrap_err().to_string().contains("unknown field `adress`"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpServerConfig {
    /// Address as `host:port`; port 0 lets the system choose.
    pub address: String,
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

impl TcpServerConfig {
    /// Listens at this address, as `host:port`, without TLS.
    pub fn new(address: impl Into<String>) -> Self {
        TcpServerConfig {
            address: address.into(),
            nodelay: default_nodelay(),
            keep_alive_ms: default_keep_alive_ms(),
            tls: None,
            timeouts: SocketTimeouts::default(),
        }
    }

    /// Speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsServerConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the bounds of each connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Takes TCP connections. Each one is a stream with an id of its own and the fact `remote`.
///
/// A written event counts as delivered when the system has taken its bytes. Let the other side answer at its own level
/// where more is needed. The server reads nothing more from a connection while an emit of it is under way, so that a
/// fast sender is held back by TCP.
///
/// # Units and limits
///
/// As many connections as the peer's `streams`; the system holds back further ones. [`SocketTimeouts`] has the times.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{TcpServer, TcpServerConfig};
///
/// let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:7000"))?;
/// assert_eq!((server.name(), server.endpoint().as_str()), ("tcp-server", "127.0.0.1:7000"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct TcpServer {
    config: TcpServerConfig,
    announcement: Announcement,
}

const NAME: &str = "tcp-server";

impl TcpServer {
    /// Makes a server. It binds when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the address is not one, or files of TLS cannot be used.
    pub fn new(config: TcpServerConfig) -> Result<Self, PeerError> {
        host_of(NAME, &config.address)?;
        if let Some(tls) = &config.tls {
            ServerTls::load(tls.clone()).map_err(|error| PeerError::setup(NAME, error.to_string()))?;
        }
        Ok(TcpServer { config, announcement: Announcement::new() })
    }

    /// Returns where the server listens.
    #[must_use]
    pub fn local_address(&self) -> LocalAddress {
        self.announcement.subscribe()
    }
}

#[async_trait]
impl Connector for TcpServer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.config.address.clone()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let (listener, address) = bind(&self.config.address, Options::of_server(&self.config)).await?;
        let _told = self.announcement.tell(address);
        let endpoint: Arc<str> = self.config.address.as_str().into();
        let server = Arc::new(Shared {
            tls: load_again(self.config.tls.as_ref())?,
            terms: Terms::new(&session, &endpoint, &self.config.timeouts),
            handshake_timeout: self.config.timeouts.handshake(),
            session: session.clone(),
        });
        session.connected();
        listen(listener, Bounds::new(&session, &endpoint), |socket, facts| Arc::clone(&server).serve(socket, facts))
            .await;
        Ok(())
    }
}

impl Options {
    fn of_server(config: &TcpServerConfig) -> Self {
        Options { nodelay: config.nodelay, keep_alive: some_ms(config.keep_alive_ms) }
    }
}

/// A bound listener.
pub(crate) struct Listener {
    listener: TcpListener,
    options: Options,
}

/// Binds to an address.
pub(crate) async fn bind(address: &str, options: Options) -> Result<(Listener, SocketAddr), ConnectorError> {
    let failed = |error: io::Error| ConnectorError::connect(format!("listen on {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((Listener { listener, options }, bound))
}

impl Accept for Listener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, StreamFacts)> {
        let (socket, remote) = self.listener.accept().await?;
        self.options.apply(&socket);
        Ok((socket, StreamFacts::new().with("remote", remote.to_string())))
    }
}

/// What all connections of one life share.
struct Shared {
    session: Session,
    tls: Option<ServerTls>,
    terms: Terms,
    handshake_timeout: Duration,
}

impl Shared {
    async fn serve(self: Arc<Self>, socket: TcpStream, facts: StreamFacts) {
        let (socket, pulse) = Metered::new(socket);
        let wire = tokio::select! {
            () = self.terms.stopping.cancelled() => return,
            secured = secure(self.tls.as_ref(), socket, self.handshake_timeout) => match secured {
                Ok(wire) => wire,
                Err(error) => return self.terms.turn_away(&facts, &error),
            },
        };
        pulse.whole();
        match self.session.open(StreamId::unique(), facts.clone()).await {
            Ok(stream) => converse(wire, &pulse, stream, &self.terms).await.note(&self.terms.endpoint),
            Err(error) => self.terms.turn_away(&facts, &error),
        }
    }
}
