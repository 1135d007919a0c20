//! The place where a server listens.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::error::ServeError;

/// The place where the server listens: a bound listener, or an address to bind (port 0 takes a free port).
#[derive(Debug)]
#[non_exhaustive]
pub enum Listen {
    /// A bound listener.
    Listener(TcpListener),
    /// An address to bind.
    Address(SocketAddr),
    /// A name `host:port` to resolve and bind.
    Name(String),
}

impl From<TcpListener> for Listen {
    fn from(listener: TcpListener) -> Self {
        Listen::Listener(listener)
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Listen::Address(address)
    }
}

impl From<&str> for Listen {
    fn from(name: &str) -> Self {
        Listen::Name(name.to_owned())
    }
}

impl Listen {
    pub(crate) async fn bind(self) -> Result<(TcpListener, SocketAddr), ServeError> {
        let (address, listener) = match self {
            Listen::Listener(listener) => ("the given listener".to_owned(), Ok(listener)),
            Listen::Address(address) => (address.to_string(), TcpListener::bind(address).await),
            Listen::Name(name) => {
                let listener = TcpListener::bind(&name).await;
                (name, listener)
            }
        };
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local_addr, listener) = bound.map_err(|source| ServeError::Listen { address, source })?;
        Ok((listener, local_addr))
    }
}
