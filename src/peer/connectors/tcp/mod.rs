//! TCP, with or without TLS: a server of many streams, and a client of one.

mod address;
mod client;
mod server;

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub use address::LocalAddress;
pub(crate) use address::{Announcement, host_of};
pub(crate) use client::{Dial, default_connect_timeout_ms, dial};
pub use client::{TcpClient, TcpClientConfig};
pub(crate) use server::bind;
pub use server::{TcpServer, TcpServerConfig};

/// Time without data after which the system asks whether the other side is still there, in milliseconds.
pub(crate) const KEEP_ALIVE_MS: u64 = 60_000;

/// Options of a connection's socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) nodelay: bool,
    pub(crate) keep_alive: Option<Duration>,
}

impl Options {
    /// Sets the options. A system that does not know one of them goes without it.
    pub(crate) fn apply(self, socket: &TcpStream) {
        let nodelay = socket.set_nodelay(self.nodelay);
        let keep_alive = self.keep_alive.map_or(Ok(()), |time| {
            SockRef::from(socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time))
        });
        if let Err(error) = nodelay.and(keep_alive) {
            tracing::debug!(%error, "an option of a socket was not set");
        }
    }
}

pub(crate) fn default_nodelay() -> bool {
    true
}

pub(crate) fn default_keep_alive_ms() -> u64 {
    KEEP_ALIVE_MS
}
