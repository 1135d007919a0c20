//! Addresses: the one that is set, and the one that a server got.

use std::net::SocketAddr;

use tokio::sync::watch;

use crate::peer::PeerError;

/// Where a server listens. A port 0 in its settings becomes a real one when the server is bound.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::{TcpServer, TcpServerConfig};
///
/// let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0"))?;
/// let address = server.local_address();
/// assert_eq!(address.get(), None, "the server does not run");
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LocalAddress(watch::Receiver<Option<SocketAddr>>);

impl LocalAddress {
    /// Returns the address of a running server; `None` while it is not bound.
    #[must_use]
    pub fn get(&self) -> Option<SocketAddr> {
        *self.0.borrow()
    }

    /// Waits until the server is bound, and returns the address. `None`: the server is gone. Give it a deadline: a
    /// server that is never started is never bound.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::peer::PeerError> {
    /// use eventbox::peer::connectors::{TcpServer, TcpServerConfig};
    ///
    /// let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0"))?;
    /// let address = server.local_address();
    /// drop(server);
    /// assert_eq!(address.bound().await, None);
    /// # Ok(()) }
    /// ```
    pub async fn bound(&self) -> Option<SocketAddr> {
        let mut receiver = self.0.clone();
        receiver.wait_for(Option::is_some).await.ok().and_then(|address| *address)
    }
}

/// What tells the address of a server.
#[derive(Debug)]
pub(crate) struct Announcement(watch::Sender<Option<SocketAddr>>);

impl Announcement {
    pub(crate) fn new() -> Self {
        Announcement(watch::Sender::new(None))
    }

    pub(crate) fn subscribe(&self) -> LocalAddress {
        LocalAddress(self.0.subscribe())
    }

    /// Tells the address until the result is dropped.
    pub(crate) fn tell(&self, address: SocketAddr) -> Told<'_> {
        self.0.send_replace(Some(address));
        Told(&self.0)
    }
}

/// An address that was told.
#[derive(Debug)]
pub(crate) struct Told<'a>(&'a watch::Sender<Option<SocketAddr>>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Returns the host of `host:port`.
pub(crate) fn host_of<'a>(connector: &str, address: &'a str) -> Result<&'a str, PeerError> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(host),
        _ => Err(PeerError::setup(connector, format!("address {address:?} is not one: write host:port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:7000", "[::1]"), ("hub.example:80", "hub.example")]
        {
            assert_eq!(host_of("tcp-server", address).unwrap(), host);
        }
        for address in ["", "7000", ":7000", "hub.example", "hub.example:http", "hub.example:70000"] {
            let refused = host_of("tcp-server", address).unwrap_err().to_string();
            assert!(refused.contains("host:port"), "{refused}");
        }
    }
}
