//! WebSocket, with or without TLS: a server of many streams, and a client of one. One message is one arrival.

mod client;
mod messages;
mod server;
mod upgrade;

use std::time::Duration;

use serde::Deserialize;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::wire::some_ms;

pub use client::{WsClient, WsClientConfig};
pub use server::{WsServer, WsServerConfig};

/// Size of the buffer for what a connection reads: what each quiet connection holds, in bytes.
const READ_BUFFER_BYTES: usize = 4096;

/// Size of the buffer up to which small messages go out together, in bytes.
const WRITE_BUFFER_BYTES: usize = 16 << 10;

/// Which kind of messages goes out. Both kinds are accepted.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::MessageKind;
///
/// assert_eq!(serde_json::from_str::<MessageKind>(r#""text""#)?, MessageKind::Text);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageKind {
    /// Any bytes.
    #[default]
    Binary,
    /// Text. An event that is not UTF-8 is refused.
    Text,
}

/// Bounds of the messages of a connection.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::WsLimits;
///
/// let limits: WsLimits = serde_json::from_str(r#"{ "ping_interval_ms": 5000 }"#)?;
/// assert_eq!((limits.ping_interval_ms, limits.max_message_bytes), (5_000, 1 << 20));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WsLimits {
    /// Largest message that is accepted, in bytes. A larger one ends the connection with code 1009.
    pub max_message_bytes: usize,
    /// Largest frame that is accepted, in bytes; a message has one frame or more.
    pub max_frame_bytes: usize,
    /// Time between two pings, in milliseconds; 0 for no pings.
    pub ping_interval_ms: u64,
    /// Longest wait for any sign of life after a ping, in milliseconds. The server looks at this interval, so that the
    /// connection ends within twice the time.
    pub pong_timeout_ms: u64,
}

impl Default for WsLimits {
    fn default() -> Self {
        WsLimits {
            max_message_bytes: 1 << 20,
            max_frame_bytes: 1 << 20,
            ping_interval_ms: 30_000,
            pong_timeout_ms: 10_000,
        }
    }
}

impl WsLimits {
    fn protocol(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_frame_bytes))
    }

    fn ping_interval(&self) -> Option<Duration> {
        some_ms(self.ping_interval_ms)
    }

    fn pong_timeout(&self) -> Option<Duration> {
        self.ping_interval().map(|_| Duration::from_millis(self.pong_timeout_ms.max(1)))
    }
}
