//! What the core gives a connector for one life of its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peer::core::Core;
use crate::peer::declare::limits::PeerLimits;
use crate::peer::error::PeerError;
use crate::peer::stream::Stream;
use crate::peer::stream::facts::StreamFacts;
use crate::peer::stream::id::StreamId;

/// One life of a connection. Cheap to clone.
///
/// # Examples
///
/// See [`Connector`](crate::peer::Connector).
#[derive(Clone)]
pub struct Session {
    core: Arc<Core>,
    stream: StreamId,
    stopping: CancellationToken,
    life: Arc<Life>,
}

/// How one life went.
pub(in crate::peer) struct Life {
    core: Arc<Core>,
    began: Instant,
    is_connected: AtomicBool,
    has_delivered: AtomicBool,
}

impl Life {
    fn new(core: Arc<Core>) -> Self {
        Life {
            core,
            began: Instant::now(),
            is_connected: AtomicBool::new(false),
            has_delivered: AtomicBool::new(false),
        }
    }

    pub(in crate::peer) fn was_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Returns whether the connection was healthy: an event went through it, or it stood long enough.
    pub(in crate::peer) fn was_healthy(&self) -> bool {
        let stood = self.began.elapsed() >= self.core.declared.reconnect.reset_after;
        self.was_connected() && (stood || self.has_delivered.load(Ordering::Relaxed))
    }

    /// Notes an event that went through.
    pub(in crate::peer) fn delivered(&self) {
        self.has_delivered.store(true, Ordering::Relaxed);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.was_connected() {
            self.core.connection_ended();
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer()).field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Session {
    pub(in crate::peer) fn new(core: &Arc<Core>, stream: StreamId, stopping: CancellationToken) -> Self {
        let life = Arc::new(Life::new(Arc::clone(core)));
        Session { core: Arc::clone(core), stream, stopping, life }
    }

    pub(in crate::peer) fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life)
    }

    /// Returns the id of the peer.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.core.id()
    }

    /// Returns the id of the stream that a client opens: `main`, or that of the linked stream.
    #[must_use]
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Says that the server is bound, or the client is connected.
    pub fn connected(&self) {
        if self.life.is_connected.swap(true, Ordering::Relaxed) {
            return;
        }
        self.core.connection_began();
        self.core.metrics.attempted(true);
        self.core.update_status(|status| {
            status.attempts.succeeded();
            status.error = None;
        });
        tracing::info!(peer = self.peer(), stream = %self.stream, "peer is connected");
    }

    /// Returns the token that is cancelled at a stop: accept and read nothing new, and flush what was read.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Returns the bounds of the peer.
    #[must_use]
    pub fn limits(&self) -> &PeerLimits {
        &self.core.declared.limits
    }

    /// Opens a stream: linked peers, observers and the mapping's recipient get its start.
    ///
    /// From now on this process sends the events in `peer.<peer>/<stream>`, whoever holds the shard.
    ///
    /// # Errors
    ///
    /// * [`PeerError::Stopped`] after the stop.
    /// * [`PeerError::Open`] and [`PeerError::Held`] when the stream is open here or in another process.
    /// * [`PeerError::TooMany`] when the peer has as many streams as it may.
    /// * [`PeerError::Store`] when the database did not note the stream.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may leave the stream noted as open; it ends as lost.
    pub async fn open(&self, id: StreamId, facts: StreamFacts) -> Result<Stream, PeerError> {
        if self.stopping.is_cancelled() {
            return Err(PeerError::Stopped { peer: self.peer().to_owned() });
        }
        Stream::open(&self.core, &self.life, id, facts).await
    }

    /// Returns the position that the last [`Arrival::checkpoint`](crate::peer::Arrival::checkpoint) of a stream stored.
    ///
    /// # Errors
    ///
    /// [`PeerError::Store`].
    pub async fn checkpoint(&self, stream: &StreamId) -> Result<Option<String>, PeerError> {
        let read = self.core.door.checkpoint(self.peer(), stream).await;
        read.map_err(|source| PeerError::store("read a checkpoint", source))
    }
}
