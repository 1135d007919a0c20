//! The state of a peer in this process.

use serde::Serialize;

use crate::peer::core::Core;

/// A running peer, as [`Peers::status`](super::Peers::status) returns it.
///
/// # Examples
///
/// See [`PeerState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Id of the peer.
    pub id: String,
    /// Type of its connector.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// Declared endpoint.
    pub endpoint: String,
    /// State of its connection.
    pub state: PeerState,
    /// Open streams in this process.
    pub streams: usize,
    /// Last error, until a connection stands.
    pub error: Option<String>,
}

/// State of a peer's connection.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("boxes.db"))).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::peer::connectors::Null;
/// use eventbox::peer::{Peer, PeerState, Peers};
/// use std::time::Duration;
///
/// let peers = Peers::builder(pool).peer(Peer::new("sink", Null::new())).start().await?;
/// peers.ready(Duration::from_secs(5)).await?;
/// assert_eq!(peers.status()[0].state, PeerState::Connected);
/// # peers.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PeerState {
    /// It is not connected yet, or not any more, and tries.
    Connecting,
    /// The client is connected, or the server is bound.
    Connected,
    /// It is a client that opens a stream for each one of the peers that link to it, and there is none.
    Idle,
    /// Nothing will ever come again: a file was read to its end.
    Finished,
    /// It tries no more, because another attempt is useless or one too many failed.
    GaveUp,
}

impl PeerState {
    /// Returns whether the peer does nothing any more.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, PeerState::Finished | PeerState::GaveUp)
    }
}

impl PeerStatus {
    /// A linked client runs once for each stream, so that none of its ends is its own.
    pub(super) fn of(core: &Core, is_linked: bool) -> Self {
        let status = core.status();
        let state = match () {
            () if core.connections() > 0 => PeerState::Connected,
            () if is_linked => PeerState::Idle,
            () if status.gave_up => PeerState::GaveUp,
            () if status.is_finished => PeerState::Finished,
            () => PeerState::Connecting,
        };
        PeerStatus {
            id: core.id().to_owned(),
            type_name: core.declared.connector.name(),
            endpoint: core.declared.connector.endpoint(),
            state,
            streams: core.streams().len(),
            error: status.error,
        }
    }
}
