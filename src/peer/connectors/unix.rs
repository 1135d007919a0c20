//! Unix sockets: a server of many streams, and a client of one.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::time::timeout;

use super::tcp::default_connect_timeout_ms;
use super::wire::{Accept, Bounds, Metered, SocketTimeouts, Terms, converse, listen};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session, StreamFacts, StreamId};

/// Connections that the system keeps for the server before it accepts them.
const BACKLOG: u32 = 1024;

/// Longest path of a socket, in bytes, on all systems.
const MAX_PATH_BYTES: usize = 100;

/// Settings of a [`UnixServer`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::UnixServerConfig;
///
/// let config: UnixServerConfig = serde_json::from_str(r#"{ "path": "/run/orders.sock" }"#)?;
/// assert_eq!((config.mode, config), (0o600, UnixServerConfig::new("/run/orders.sock")));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UnixServerConfig {
    /// Path of the socket, at most 100 bytes.
    pub path: PathBuf,
    /// Permissions of the socket file: who may connect. Default: 0o600, the owner alone.
    #[serde(default = "default_mode")]
    pub mode: u32,
    /// Bounds of each connection.
    #[serde(default)]
    pub timeouts: SocketTimeouts,
}

fn default_mode() -> u32 {
    0o600
}

impl UnixServerConfig {
    /// Listens at this path, for the owner alone.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        UnixServerConfig { path: path.into(), mode: default_mode(), timeouts: SocketTimeouts::default() }
    }

    /// Sets who may connect.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the bounds of each connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Settings of a [`UnixClient`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::UnixClientConfig;
///
/// let config: UnixClientConfig = serde_json::from_str(r#"{ "path": "/run/orders.sock" }"#)?;
/// assert_eq!(config, UnixClientConfig::new("/run/orders.sock"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UnixClientConfig {
    /// Path of the socket, at most 100 bytes.
    pub path: PathBuf,
    /// Longest time of an attempt to connect, in milliseconds. Default: 5,000.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// Bounds of the connection.
    #[serde(default)]
    pub timeouts: SocketTimeouts,
}

impl UnixClientConfig {
    /// Connects to this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        UnixClientConfig {
            path: path.into(),
            connect_timeout_ms: default_connect_timeout_ms(),
            timeouts: SocketTimeouts::default(),
        }
    }

    /// Sets the bounds of the connection.
    #[must_use]
    pub fn timeouts(mut self, timeouts: SocketTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// Takes connections on a Unix socket. Each one is a stream with an id of its own and the facts `remote`, the path, and
/// `uid`, the user on the other side.
///
/// The socket file of a server that died is removed, and the file of one that listens is left alone.
///
/// # Units and limits
///
/// As many connections as the peer's `streams`; the system holds back further ones. [`SocketTimeouts`] has the times.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{UnixServer, UnixServerConfig};
///
/// let server = UnixServer::new(UnixServerConfig::new("/run/orders.sock").mode(0o660))?;
/// assert_eq!((server.name(), server.endpoint().as_str()), ("unix-server", "/run/orders.sock"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct UnixServer {
    config: UnixServerConfig,
}

const SERVER: &str = "unix-server";

impl UnixServer {
    /// Makes a server. It binds when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the path is too long or empty.
    pub fn new(config: UnixServerConfig) -> Result<Self, PeerError> {
        check_path(SERVER, &config.path)?;
        Ok(UnixServer { config })
    }
}

#[async_trait]
impl Connector for UnixServer {
    fn name(&self) -> &'static str {
        SERVER
    }

    fn endpoint(&self) -> String {
        self.config.path.display().to_string()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let endpoint: Arc<str> = self.endpoint().into();
        let failed = |error: io::Error| ConnectorError::connect(format!("listen on {endpoint}"), error);
        let (listener, _file) = bind(&self.config.path, self.config.mode).await.map_err(failed)?;
        let terms = Arc::new(Terms::new(&session, &endpoint, &self.config.timeouts));
        session.connected();
        let listener = Listener { listener, endpoint: Arc::clone(&endpoint) };
        let bounds = Bounds::new(&session, &endpoint);
        listen(listener, bounds, |socket, facts| serve(session.clone(), Arc::clone(&terms), socket, facts)).await;
        Ok(())
    }
}

async fn serve(session: Session, terms: Arc<Terms>, socket: UnixStream, facts: StreamFacts) {
    let (socket, pulse) = Metered::new(socket);
    match session.open(StreamId::unique(), facts.clone()).await {
        Ok(stream) => converse(Box::new(socket), &pulse, stream, &terms).await.note(&terms.endpoint),
        Err(error) => terms.turn_away(&facts, &error),
    }
}

struct Listener {
    listener: UnixListener,
    endpoint: Arc<str>,
}

impl Accept for Listener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, StreamFacts)> {
        let (socket, _) = self.listener.accept().await?;
        let facts = StreamFacts::new().with("remote", &*self.endpoint);
        let facts = match socket.peer_cred() {
            Ok(other) => facts.with("uid", other.uid().to_string()),
            Err(_) => facts,
        };
        Ok((socket, facts))
    }
}

/// The socket file of this server. Dropped, it removes the file, unless another server has put its own there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode_of(&self.path).ok() == Some(self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Binds to a path, and removes what a dead server has left there.
async fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let bound = match bind_once(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path).await? => {
            std::fs::remove_file(path)?;
            bind_once(path)?
        }
        bound => bound?,
    };
    let file = SocketFile { path: path.to_owned(), inode: inode_of(path)? };
    // Before the server listens: until then nobody can connect, whatever the permissions are.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok((bound.listen(BACKLOG)?, file))
}

fn bind_once(path: &Path) -> io::Result<UnixSocket> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    Ok(socket)
}

/// Returns whether the file is a socket on which nobody listens.
async fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    Ok(UnixStream::connect(path).await.is_err_and(refused))
}

/// Connects to a Unix socket: one connection for each stream of the peer. What is not sent waits for the next
/// connection.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::{UnixClient, UnixClientConfig};
///
/// let client = UnixClient::new(UnixClientConfig::new("/run/orders.sock"))?;
/// assert_eq!((client.name(), client.endpoint().as_str()), ("unix-client", "/run/orders.sock"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct UnixClient {
    config: UnixClientConfig,
}

const CLIENT: &str = "unix-client";

impl UnixClient {
    /// Makes a client. It connects when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`]: the path is too long or empty.
    pub fn new(config: UnixClientConfig) -> Result<Self, PeerError> {
        check_path(CLIENT, &config.path)?;
        Ok(UnixClient { config })
    }
}

#[async_trait]
impl Connector for UnixClient {
    fn name(&self) -> &'static str {
        CLIENT
    }

    fn endpoint(&self) -> String {
        self.config.path.display().to_string()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn keeps_stream_ids(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let endpoint: Arc<str> = self.endpoint().into();
        let failed = |error: io::Error| ConnectorError::connect(format!("connect to {endpoint}"), error);
        let connecting = UnixStream::connect(&self.config.path);
        let limit = Duration::from_millis(self.config.connect_timeout_ms);
        let stopping = session.stopping();
        let socket = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            connected = timeout(limit, connecting) => match connected {
                Ok(connected) => connected.map_err(failed)?,
                Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
            },
        };
        let (socket, pulse) = Metered::new(socket);
        let facts = StreamFacts::new().with("remote", &*endpoint);
        let stream = session.open(session.stream().clone(), facts).await?;
        session.connected();
        let terms = Terms::new(&session, &endpoint, &self.config.timeouts);
        converse(Box::new(socket), &pulse, stream, &terms).await.of_client(&endpoint)
    }
}

fn check_path(connector: &str, path: &Path) -> Result<(), PeerError> {
    match path.as_os_str().len() {
        1..=MAX_PATH_BYTES => Ok(()),
        bytes => {
            let problem = format!("the path has {bytes} bytes: a Unix socket takes 1 to {MAX_PATH_BYTES}");
            Err(PeerError::setup(connector, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_servers_file_is_replaced_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file of a dead server");
        let (living, file) = bind(&path, 0o640).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let refused = bind(&path, 0o600).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).await.unwrap();
        drop((living, file));
        assert!(!path.exists(), "a server removes its own file");
    }

    #[tokio::test]
    async fn another_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o600).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let (_listener, file) = bind(&path, 0o600).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "of another").unwrap();
        drop(file);
        assert!(path.exists(), "a file that is not the server's own stays");
    }
}
