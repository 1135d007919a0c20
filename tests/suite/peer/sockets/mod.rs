//! Tests of the socket connectors: TCP, TLS, Unix sockets, WebSocket.

mod tcp;
mod tls;
#[cfg(unix)]
mod unix;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use eventbox::admin;
use eventbox::peer::connectors::{LocalAddress, SocketTimeouts};
use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{
    Connector, EndReason, Mapping, Peer, PeerLimits, Peers, StreamFacts, StreamId, StreamSignal, Undelivered,
};
use eventbox::{Backend, Event, Recipient};
use sqlx::Pool;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::support::{CellEngine, SOON, eventually};

/// Id of the peer that is tested.
const PEER: &str = "wire";

/// A running peer, what it tells of its streams, and the eventbox of what comes in.
struct Site<B: CellEngine> {
    pool: Pool<B>,
    peers: Peers<B>,
    signals: broadcast::Receiver<StreamSignal>,
}

/// Makes the peer of a test. What its streams do not send stays.
fn peer(connector: impl Connector) -> Peer {
    let mapping = Mapping::to("inbox/all").unwrap().with_undelivered(Undelivered::Keep);
    Peer::new(PEER, connector).mapping(mapping)
}

/// Makes a peer of lines.
fn lines(connector: impl Connector) -> Peer {
    peer(connector).interceptors([InterceptorSpec::named("lines").unwrap()])
}

async fn start<B: Backend>(pool: &Pool<B>, peer: Peer) -> Peers<B> {
    Peers::builder(pool.clone()).config(super::config()).peer(peer).start().await.unwrap()
}

impl<B: CellEngine> Site<B> {
    async fn start(pool: &Pool<B>, peer: Peer) -> Self {
        let peers = start(pool, peer).await;
        let signals = peers.observe();
        Site { pool: pool.clone(), peers, signals }
    }

    /// Returns the stream that starts next.
    async fn started(&mut self) -> (StreamId, StreamFacts) {
        loop {
            if let StreamSignal::Started { stream, facts, .. } = self.signal().await {
                return (stream, facts);
            }
        }
    }

    /// Returns why the stream ended that ends next.
    async fn ended(&mut self) -> EndReason {
        loop {
            if let StreamSignal::Ended { reason, .. } = self.signal().await {
                return reason;
            }
        }
    }

    async fn signal(&mut self) -> StreamSignal {
        timeout(SOON, self.signals.recv()).await.expect("a stream starts or ends").unwrap()
    }

    /// Waits until so many events came in, and returns their values.
    async fn inbox(&self, count: usize) -> Vec<String> {
        let inbox = Recipient::new("inbox", "all").unwrap();
        let mut values = Vec::new();
        eventually(SOON, async || {
            let events = admin::events(&self.pool, &inbox, None, 1000).await.unwrap();
            values = events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect();
            values.len() >= count
        })
        .await;
        assert_eq!(values.len(), count, "{values:?}");
        values
    }

    /// Emits an event to a stream.
    async fn send(&self, stream: &StreamId, value: impl Into<Vec<u8>>) {
        B::emit_on(&self.pool, &of(stream), Event::new(value.into())).await.unwrap();
    }

    /// Returns the number of events that a stream has not sent.
    async fn unsent(&self, stream: &StreamId) -> usize {
        admin::events(&self.pool, &of(stream), None, 1000).await.unwrap().len()
    }

    async fn stop(self) {
        let report = self.peers.stop(SOON).await;
        assert!(report.complete, "{report:?}");
    }
}

fn of(stream: &StreamId) -> Recipient {
    Recipient::new(format!("peer.{PEER}"), stream.as_str()).unwrap()
}

/// Returns the only stream of a client.
fn main() -> StreamId {
    StreamId::new("main").unwrap()
}

async fn bound(address: &LocalAddress) -> SocketAddr {
    timeout(SOON, address.bound()).await.expect("the server binds").unwrap()
}

/// Connects as a foreign client.
async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Reads exactly these bytes.
async fn expect(wire: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(SOON, wire.read_exact(&mut read)).await.expect("the bytes arrive").unwrap();
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(bytes));
}

/// Reads until the other side has closed, however rudely.
async fn expect_end(wire: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, wire.read_to_end(&mut rest)).await.expect("the other side closes");
}

/// Timeouts that no test waits for, with one change.
fn timeouts(change: impl FnOnce(&mut SocketTimeouts)) -> SocketTimeouts {
    let mut timeouts = SocketTimeouts::default();
    timeouts.frame_timeout_ms = 60_000;
    timeouts.handshake_timeout_ms = 60_000;
    change(&mut timeouts);
    timeouts
}

fn limits(change: impl FnOnce(&mut PeerLimits)) -> PeerLimits {
    let mut limits = PeerLimits::default();
    limits.write_timeout = Duration::from_secs(60);
    change(&mut limits);
    limits
}
