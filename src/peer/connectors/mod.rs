//! The connectors of the library: what peers know of protocols.

pub mod bench;
pub mod chip_ingress;
pub mod eventbox;
pub mod file;
pub mod http;
pub mod null;
pub mod stdio;
mod tcp;
mod token;
#[cfg(unix)]
mod unix;
mod websocket;
mod wire;

pub use bench::{Bench, BenchConfig, BenchMeter, BenchReport};
pub use chip_ingress::{ChipIngress, ChipIngressConfig};
#[cfg(feature = "ingress")]
pub use chip_ingress::{ChipIngressServer, ChipIngressServerConfig};
pub use eventbox::{Eventbox, EventboxConfig};
pub use file::{File, FileConfig};
pub use null::{Null, NullConfig, NullCounted};
pub use stdio::{Stdio, StdioConfig};
pub use tcp::{LocalAddress, TcpClient, TcpClientConfig, TcpServer, TcpServerConfig};
pub use token::Token;
#[cfg(unix)]
pub use unix::{UnixClient, UnixClientConfig, UnixServer, UnixServerConfig};
pub use websocket::{MessageKind, WsClient, WsClientConfig, WsLimits, WsServer, WsServerConfig};
pub use wire::{SocketTimeouts, TlsClientConfig, TlsServerConfig};
