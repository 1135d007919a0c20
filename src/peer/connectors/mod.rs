//! The connectors of the library: what peers know of protocols.

pub mod http;
mod null;
mod tcp;
#[cfg(unix)]
mod unix;
mod websocket;
mod wire;

pub use null::Null;
pub use tcp::{LocalAddress, TcpClient, TcpClientConfig, TcpServer, TcpServerConfig};
#[cfg(unix)]
pub use unix::{UnixClient, UnixClientConfig, UnixServer, UnixServerConfig};
pub use websocket::{MessageKind, Token, WsClient, WsClientConfig, WsLimits, WsServer, WsServerConfig};
pub use wire::{SocketTimeouts, TlsClientConfig, TlsServerConfig};
