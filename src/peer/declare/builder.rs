//! The declaration of peers, from code or from a file.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;

use crate::peer::connect::connector::{CodecNeed, Connector, Role};
use crate::peer::core::Declared;
use crate::peer::declare::describe::PeerDescription;
use crate::peer::declare::limits::PeerLimits;
use crate::peer::declare::mapping::Mapping;
use crate::peer::declare::reconnect::Reconnect;
use crate::peer::error::PeerError;
use crate::peer::framing::{Chain, CodecSpec, Direction, InterceptorSpec};
use crate::peer::handle::Peers;
use crate::peer::stream::id::MAX_STREAM_ID_BYTES;
use crate::runtime::RuntimeConfig;
use crate::store::Backend;

/// Most bytes of the id of a peer.
pub const MAX_PEER_ID_BYTES: usize = 64;

/// A peer: a named connector with its codec, interceptors and mapping.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::Null;
/// use eventbox::peer::framing::InterceptorSpec;
/// use eventbox::peer::{Mapping, Peer, Reconnect};
///
/// let peer = Peer::new("chat", Null::new())
///     .interceptors([InterceptorSpec::named("lines")?])
///     .mapping(Mapping::to("room/{stream}")?)
///     .reconnect(Reconnect::default());
/// # let _ = peer;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Peer {
    id: String,
    connector: Arc<dyn Connector>,
    codec: Option<CodecSpec>,
    interceptors: Vec<InterceptorSpec>,
    mapping: Mapping,
    reconnect: Reconnect,
    limits: PeerLimits,
    links: Vec<String>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("id", &self.id).field("type", &self.connector.name()).finish_non_exhaustive()
    }
}

impl Peer {
    /// Makes a peer of a connector. The id is a part of recipients and of metrics: 1 to [`MAX_PEER_ID_BYTES`] letters,
    /// digits, `-` and `_`, checked at the start.
    pub fn new(id: impl Into<String>, connector: impl Connector) -> Self {
        Peer::of(id, Arc::new(connector))
    }

    /// Makes a peer of a connector whose type is not known at compile time.
    pub fn of(id: impl Into<String>, connector: Arc<dyn Connector>) -> Self {
        Peer {
            id: id.into(),
            connector,
            codec: None,
            interceptors: Vec::new(),
            mapping: Mapping::none(),
            reconnect: Reconnect::default(),
            limits: PeerLimits::default(),
            links: Vec::new(),
        }
    }

    /// Sets the codec, instead of the connector's default.
    pub fn codec(self, codec: CodecSpec) -> Self {
        Peer { codec: Some(codec), ..self }
    }

    /// Sets the interceptors, in the order in which bytes that arrive pass them. Bytes that leave pass them in the
    /// opposite order.
    pub fn interceptors(self, interceptors: impl IntoIterator<Item = InterceptorSpec>) -> Self {
        Peer { interceptors: interceptors.into_iter().collect(), ..self }
    }

    /// Sets where events go.
    pub fn mapping(self, mapping: Mapping) -> Self {
        Peer { mapping, ..self }
    }

    /// Sets when the connection is made again.
    pub fn reconnect(self, reconnect: Reconnect) -> Self {
        Peer { reconnect, ..self }
    }

    /// Sets the bounds.
    pub fn limits(self, limits: PeerLimits) -> Self {
        Peer { limits, ..self }
    }

    /// Links the peer to a client: each stream of this peer opens a stream with the same id there, before its first
    /// event, and closes it at its end.
    pub fn linked_to(mut self, client: impl Into<String>) -> Self {
        self.links.push(client.into());
        self
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the peer as plain data, for people. It holds no secret.
    #[must_use]
    pub fn description(&self) -> PeerDescription {
        let codec = match self.connector.codec_need() {
            CodecNeed::Default(default) => Some(self.codec.as_ref().unwrap_or(&default).name().to_owned()),
            CodecNeed::Bytes => self.codec.as_ref().map(|codec| codec.name().to_owned()),
            CodecNeed::Structured => None,
        };
        PeerDescription {
            id: self.id.clone(),
            type_name: self.connector.name(),
            endpoint: self.connector.endpoint(),
            codec,
            interceptors: self.interceptors.iter().map(|interceptor| interceptor.name().to_owned()).collect(),
            to: self.mapping.to.as_ref().map(ToString::to_string),
            linked_to: self.links.clone(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.id.is_empty() || self.id.len() > MAX_PEER_ID_BYTES || !self.id.bytes().all(is_allowed) {
            return Err(format!("its id must have 1 to {MAX_PEER_ID_BYTES} letters, digits, - or _"));
        }
        self.reconnect.check()?;
        self.limits.check()?;
        let need = self.connector.codec_need();
        if matches!(need, CodecNeed::Structured) && (self.codec.is_some() || !self.interceptors.is_empty()) {
            return Err(format!("{} has whole values: remove codec and interceptors", self.connector.name()));
        }
        for direction in [Direction::Incoming, Direction::Outgoing] {
            Chain::new(&self.interceptors, direction, &self.limits.framing).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn declared(self) -> Declared {
        let codec = match self.connector.codec_need() {
            CodecNeed::Default(default) => Some(self.codec.unwrap_or(default)),
            CodecNeed::Bytes => self.codec,
            CodecNeed::Structured => None,
        };
        Declared {
            id: self.id,
            connector: self.connector,
            codec,
            interceptors: self.interceptors,
            mapping: self.mapping,
            reconnect: self.reconnect,
            limits: self.limits,
            links: self.links,
        }
    }
}

/// Bounds of all peers of a process together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeersConfig {
    /// Settings of the workers that take streams through turns. Its `address` and `leases` make this process a member;
    /// a process that is silent for [`lease_ttl`](crate::runtime::LeaseConfig) loses its streams.
    pub runtime: RuntimeConfig,
    /// Time between two looks after lost streams, events of closed streams, and the gauges; 1 s by default.
    pub sweep_interval: Duration,
}

impl Default for PeersConfig {
    fn default() -> Self {
        PeersConfig { runtime: RuntimeConfig::default(), sweep_interval: Duration::from_secs(1) }
    }
}

/// Builder of [`Peers`].
#[must_use]
pub struct PeersBuilder<B: Backend> {
    pub(in crate::peer) pool: Pool<B>,
    pub(in crate::peer) peers: Vec<Peer>,
    pub(in crate::peer) config: PeersConfig,
}

impl<B: Backend> std::fmt::Debug for PeersBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeersBuilder").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl<B: Backend> PeersBuilder<B> {
    pub(in crate::peer) fn new(pool: Pool<B>) -> Self {
        PeersBuilder { pool, peers: Vec::new(), config: PeersConfig::default() }
    }

    /// Adds a peer.
    pub fn peer(mut self, peer: Peer) -> Self {
        self.peers.push(peer);
        self
    }

    /// Adds peers, as those of a [`PeersFile`](crate::peer::PeersFile).
    pub fn peers(mut self, peers: impl IntoIterator<Item = Peer>) -> Self {
        self.peers.extend(peers);
        self
    }

    /// Sets the bounds of all peers together.
    pub fn config(self, config: PeersConfig) -> Self {
        PeersBuilder { config, ..self }
    }

    /// Starts the peers. They connect in the background: [`Peers::ready`] waits for them.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] with the peer and the wrong setting, and the errors of
    /// [`RuntimeBuilder::start`](crate::runtime::RuntimeBuilder::start) as [`PeerError::Store`]. Then nothing is
    /// started.
    pub async fn start(self) -> Result<Peers<B>, PeerError> {
        self.check()?;
        Peers::run(self).await
    }

    fn check(&self) -> Result<(), PeerError> {
        if self.peers.is_empty() {
            return Err(PeerError::setup("?", "no peer is declared: add one"));
        }
        if self.config.runtime.leases.is_none() {
            return Err(PeerError::setup(
                "?",
                "leases are off: peers need them, to notice the streams of dead processes",
            ));
        }
        check_all(&self.peers)
    }

    /// Returns the declared peers, and the ids of those that others link to.
    pub(in crate::peer) fn declared(peers: Vec<Peer>) -> (Vec<Declared>, HashSet<String>) {
        let linked = peers.iter().flat_map(|peer| peer.links.iter().cloned()).collect();
        (peers.into_iter().map(Peer::declared).collect(), linked)
    }
}

/// Checks peers, and how they fit each other.
pub(in crate::peer) fn check_all(peers: &[Peer]) -> Result<(), PeerError> {
    let mut ids = HashSet::new();
    for peer in peers {
        peer.check().map_err(|problem| PeerError::setup(&peer.id, problem))?;
        if !ids.insert(peer.id.as_str()) {
            return Err(PeerError::setup(&peer.id, "the id is declared twice"));
        }
    }
    for peer in peers {
        for link in &peer.links {
            let client = peers.iter().find(|other| other.id == *link);
            let is_client = client.is_some_and(|client| client.connector.role() == Role::Client);
            if !is_client || *link == peer.id {
                let problem = format!("it is linked to {link}, which is no other client among the peers");
                return Err(PeerError::setup(&peer.id, problem));
            }
        }
    }
    Ok(())
}

// A recipient has room for the longest ids.
const _: () = assert!(MAX_PEER_ID_BYTES + MAX_STREAM_ID_BYTES + 6 <= crate::recipient::MAX_KEY_BYTES);
