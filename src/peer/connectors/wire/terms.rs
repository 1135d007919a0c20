//! The terms of one connection, and how its two halves end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pulse::SendError;
use crate::peer::{Batch, ConnectorError, EndReason, Outgoing, Session, Stream, StreamFacts};
use crate::text::Chain;

/// Bounds of the connections of a socket connector, in milliseconds.
///
/// The peer's limits hold as well: `streams` bounds the connections, `read_buffer_bytes` what is read at a time, and
/// `write_timeout` a write that makes no progress.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::SocketTimeouts;
///
/// let timeouts: SocketTimeouts = serde_json::from_str(r#"{ "frame_timeout_ms": 5000 }"#)?;
/// assert_eq!((timeouts.frame_timeout_ms, timeouts.handshake_timeout_ms), (5_000, 10_000));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SocketTimeouts {
    /// Longest time of the handshakes of TLS and WebSocket, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Longest time from the first byte of a frame to its last one, in milliseconds; 0 for no limit. A connection that
    /// sends slower ends as idle. A quiet connection without a frame under way is not affected.
    pub frame_timeout_ms: u64,
    /// Longest time without data in any direction, in milliseconds; 0 for no limit. Pings and pongs are no data.
    pub idle_timeout_ms: u64,
    /// Time without anything to send, in milliseconds, after which a stream ends whose other side has ended its
    /// writing. Answers that take longer find no stream.
    pub half_close_timeout_ms: u64,
    /// Longest wait for the other side to close after this side has said goodbye, in milliseconds.
    pub close_timeout_ms: u64,
}

impl Default for SocketTimeouts {
    fn default() -> Self {
        SocketTimeouts {
            handshake_timeout_ms: 10_000,
            frame_timeout_ms: 30_000,
            idle_timeout_ms: 0,
            half_close_timeout_ms: 1_000,
            close_timeout_ms: 1_000,
        }
    }
}

impl SocketTimeouts {
    pub(crate) fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub(crate) fn close(&self) -> Duration {
        Duration::from_millis(self.close_timeout_ms)
    }
}

/// Returns a duration; `None` for 0.
pub(crate) fn some_ms(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// What holds for every connection of a connector.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) endpoint: Arc<str>,
    pub(crate) stopping: CancellationToken,
    pub(crate) read_buffer_bytes: usize,
    pub(crate) write_timeout: Duration,
    pub(crate) idle: Option<Duration>,
    pub(crate) frame: Option<Duration>,
    pub(crate) half_close: Duration,
    pub(crate) close: Duration,
}

impl Terms {
    pub(crate) fn new(session: &Session, endpoint: &Arc<str>, timeouts: &SocketTimeouts) -> Self {
        let limits = session.limits();
        Terms {
            endpoint: Arc::clone(endpoint),
            stopping: session.stopping(),
            read_buffer_bytes: limits.read_buffer_bytes.get(),
            write_timeout: limits.write_timeout,
            idle: some_ms(timeouts.idle_timeout_ms),
            frame: some_ms(timeouts.frame_timeout_ms),
            half_close: Duration::from_millis(timeouts.half_close_timeout_ms),
            close: timeouts.close(),
        }
    }
}

impl Terms {
    /// Writes to the log that a connection has become no stream.
    pub(crate) fn turn_away(&self, facts: &StreamFacts, error: &dyn std::error::Error) {
        let (endpoint, remote) = (&self.endpoint, facts.get("remote"));
        tracing::info!(%endpoint, remote, error = text_of(error), "a connection was turned away");
    }
}

/// What the reading half tells the writing half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Both directions are open.
    Open,
    /// The other side has ended its writing: answers may still go out.
    HalfClosed,
    /// Nothing more can go out.
    Cut,
}

/// How the reading half ended.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    /// The other side ended its writing.
    Closed,
    /// Reading was no longer wanted.
    Unwanted,
    /// The other side was silent, or too slow with a frame.
    Idle,
    /// The frames were lost.
    Framing(String),
    /// What came in could not be emitted.
    Failed(String),
    /// The connection broke.
    Lost(io::Error),
}

impl ReadEnd {
    pub(crate) fn phase(&self) -> Phase {
        match self {
            ReadEnd::Unwanted => Phase::Open,
            ReadEnd::Closed => Phase::HalfClosed,
            _ => Phase::Cut,
        }
    }
}

/// How the writing half ended.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The core has nothing more for the stream, because of a stop or a drain.
    Drained,
    /// The other side had ended its writing, and nothing more was to be sent.
    Quiet,
    /// The reading half ended the connection.
    Cut,
    /// A write failed.
    Failed(SendError),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: EndReason,
    text: String,
}

impl Ended {
    pub(crate) fn new(read: ReadEnd, write: WriteEnd, stopping: bool) -> Self {
        let (reason, text) = match (read, write) {
            (ReadEnd::Lost(error), _) => (reason_of(&error), error.to_string()),
            (ReadEnd::Idle, _) => (EndReason::Idle, "the other side was silent for too long".to_owned()),
            (ReadEnd::Framing(text), _) => (EndReason::Framing(text.clone()), text),
            (ReadEnd::Failed(text), _) => (EndReason::Failed(text.clone()), text),
            // A write to a side that has closed altogether fails, and that is no failure of the stream.
            (ReadEnd::Closed, _) => (EndReason::Closed, "the other side closed the connection".to_owned()),
            (ReadEnd::Unwanted, WriteEnd::Failed(error)) => {
                let text = text_of(&error);
                match &error {
                    SendError::Io(error) => (reason_of(error), text),
                    SendError::Gone => (EndReason::Closed, text),
                    _ => (EndReason::Failed(text.clone()), text),
                }
            }
            (ReadEnd::Unwanted, _) if stopping => (EndReason::Stopped, "the peer stopped".to_owned()),
            (ReadEnd::Unwanted, _) => (EndReason::Finished, "nothing more is to be sent".to_owned()),
        };
        Ended { reason, text }
    }

    /// Returns what the end means for a client, whose life is its only connection.
    pub(crate) fn of_client(self, endpoint: &str) -> Result<(), ConnectorError> {
        match self.reason {
            EndReason::Stopped | EndReason::Finished => Ok(()),
            _ => Err(ConnectorError::lost(endpoint, self.text)),
        }
    }

    /// Writes the end of a server's connection to the log, without anything of what was sent.
    pub(crate) fn note(&self, endpoint: &str) {
        tracing::debug!(endpoint, reason = ?self.reason, "a connection ended");
    }
}

/// Returns the end of a stream whose connection broke. A client that goes without a goodbye is every day's business of
/// a server, and no failure that counts for the breaker of the peer.
fn reason_of(error: &io::Error) -> EndReason {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => EndReason::Closed,
        _ => EndReason::Failed(error.to_string()),
    }
}

/// Ends the stream of a connection that has ended.
pub(crate) async fn end(stream: Stream, ended: Ended, terms: &Terms) -> Ended {
    if let Err(error) = stream.end(ended.reason.clone()).await {
        tracing::info!(endpoint = %terms.endpoint, error = text_of(&error), "a stream did not end in good order");
    }
    ended
}

/// Returns the text of an error with those of its causes.
pub(crate) fn text_of(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}

/// Waits for the next batch to send, in all phases of a connection.
pub(crate) async fn next_batch(
    outgoing: &mut Outgoing,
    phases: &mut watch::Receiver<Phase>,
    half_close: Duration,
) -> Result<Batch, WriteEnd> {
    loop {
        let phase = *phases.borrow_and_update();
        let quiet = async {
            match phase {
                Phase::HalfClosed => tokio::time::sleep(half_close).await,
                _ => std::future::pending().await,
            }
        };
        if phase == Phase::Cut {
            return Err(WriteEnd::Cut);
        }
        tokio::select! {
            biased;
            Ok(()) = phases.changed() => {}
            batch = outgoing.next() => return batch.ok_or(WriteEnd::Drained),
            () = quiet => return Err(WriteEnd::Quiet),
        }
    }
}

/// Waits until nothing more can go out.
pub(crate) async fn cut(phases: &mut watch::Receiver<Phase>) {
    if phases.wait_for(|phase| *phase == Phase::Cut).await.is_err() {
        std::future::pending::<()>().await;
    }
}
