//! The errors of peers.

use crate::error::{BoxError, Error};
use crate::peer::framing::FramingError;

/// Why something on a peer or a stream did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// A setting of a peer is wrong. Nothing was started.
    #[error("set up peer {peer}: {problem}")]
    #[non_exhaustive]
    Setup {
        /// The peer.
        peer: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// A file of peers is wrong.
    #[error("read the file of peers{}: {problem}", place(*.line, .peer.as_deref()))]
    #[non_exhaustive]
    File {
        /// Line of the problem, from 1.
        line: Option<usize>,
        /// The peer.
        peer: Option<String>,
        /// The problem and its remedy.
        problem: String,
    },
    /// An id of a stream breaks a limit of [`StreamId`](crate::peer::StreamId).
    #[error("name stream {text:?}: {problem}")]
    #[non_exhaustive]
    StreamId {
        /// Beginning of the text.
        text: String,
        /// The broken limit.
        problem: String,
    },
    /// Bytes could not be turned into events, or events into bytes.
    #[error("frame a message of stream {stream} of peer {peer}")]
    #[non_exhaustive]
    Framing {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
        /// The problem with the bytes.
        source: FramingError,
    },
    /// The mapping names no recipient for an event: a field is missing, or breaks a limit.
    #[error("map an event of stream {stream} of peer {peer}: {problem}")]
    #[non_exhaustive]
    Mapping {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// The database did not take what a peer has to store.
    #[error("{attempt}")]
    #[non_exhaustive]
    Store {
        /// The attempt, with the peer.
        attempt: String,
        /// Error of the eventboxes.
        source: Error,
    },
    /// Another process has the stream. Try again: the stream is free when that process ends.
    #[error("open stream {stream} of peer {peer}: another process has it")]
    #[non_exhaustive]
    Held {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
    },
    /// The stream is open in this process already.
    #[error("open stream {stream} of peer {peer}: it is open already")]
    #[non_exhaustive]
    Open {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
    },
    /// The peer has as many open streams as it may.
    #[error("open stream {stream} of peer {peer}: {limit} streams are open; raise streams, or start more processes")]
    #[non_exhaustive]
    TooMany {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
        /// Most open streams.
        limit: usize,
    },
    /// The checkpoint of a stream moved without this process: another process reads the same stream.
    #[error("move the checkpoint of stream {stream} of peer {peer}: another process has moved it")]
    #[non_exhaustive]
    Checkpoint {
        /// The peer.
        peer: String,
        /// The stream.
        stream: String,
    },
    /// The peer stops. What was not emitted is not acknowledged.
    #[error("peer {peer} stops")]
    #[non_exhaustive]
    Stopped {
        /// The peer.
        peer: String,
    },
}

impl PeerError {
    pub(crate) fn setup(peer: &str, problem: impl Into<String>) -> Self {
        PeerError::Setup { peer: peer.to_owned(), problem: problem.into() }
    }

    pub(super) fn store(attempt: impl Into<String>, source: Error) -> Self {
        PeerError::Store { attempt: attempt.into(), source }
    }

    /// Returns whether the stream cannot go on, because the rest of its bytes has no meaning any more.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        match self {
            PeerError::Framing { source, .. } => source.ends_stream(),
            PeerError::Mapping { .. } => false,
            _ => true,
        }
    }

    /// Returns whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            PeerError::Store { source, .. } => source.is_transient() || matches!(source, Error::Unknown { .. }),
            PeerError::Held { .. } | PeerError::Open { .. } | PeerError::TooMany { .. } | PeerError::Stopped { .. } => {
                true
            }
            _ => false,
        }
    }
}

/// Returns where a problem of a file is.
fn place(line: Option<usize>, peer: Option<&str>) -> String {
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let peer = peer.map(|peer| format!(", peer {peer}")).unwrap_or_default();
    line + &peer
}

/// Why one life of a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// The connection could not be made.
    #[error("{attempt}")]
    #[non_exhaustive]
    Connect {
        /// The attempt: `connect to 127.0.0.1:7000`.
        attempt: String,
        /// Its error.
        source: BoxError,
    },
    /// The connection was lost.
    #[error("the connection to {endpoint} was lost")]
    #[non_exhaustive]
    Lost {
        /// The other side.
        endpoint: String,
        /// The error that ended the connection.
        source: BoxError,
    },
    /// The other side refuses for good, or a setting is wrong. The peer does not try again.
    #[error("{problem}")]
    #[non_exhaustive]
    Refused {
        /// The problem and its remedy.
        problem: String,
    },
    /// The core refused.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl ConnectorError {
    /// Makes the error of a connection that could not be made.
    pub fn connect(attempt: impl Into<String>, source: impl Into<BoxError>) -> Self {
        ConnectorError::Connect { attempt: attempt.into(), source: source.into() }
    }

    /// Makes the error of a connection that was lost.
    pub fn lost(endpoint: impl Into<String>, source: impl Into<BoxError>) -> Self {
        ConnectorError::Lost { endpoint: endpoint.into(), source: source.into() }
    }

    /// Makes the error of a connection that will never be.
    pub fn refused(problem: impl Into<String>) -> Self {
        ConnectorError::Refused { problem: problem.into() }
    }

    /// Returns whether another attempt is useless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            ConnectorError::Refused { .. } => true,
            ConnectorError::Peer(PeerError::Setup { .. } | PeerError::StreamId { .. }) => true,
            ConnectorError::Connect { .. } | ConnectorError::Lost { .. } | ConnectorError::Peer(_) => false,
        }
    }
}
