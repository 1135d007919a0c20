//! HTTP connectors against plain sockets: what foreign clients and servers see.

mod client;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use eventbox::peer::connectors::http::{HttpServer, HttpServerConfig};
use eventbox::peer::{Mapping, Peer, Peers};
use eventbox::{Event, Recipient, admin, testing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually};

/// Time of a stop.
const STOP: Duration = Duration::from_secs(10);

/// Recipient of the requests.
fn inbox() -> Recipient {
    Recipient::new("request", "all").unwrap()
}

/// A server as the peer `web`.
struct Web<B: TestEngine> {
    peers: Peers<B>,
    address: SocketAddr,
}

impl<B: TestEngine> Web<B> {
    async fn start(db: &TestDb<B>, change: impl FnOnce(&mut HttpServerConfig)) -> Self {
        Self::start_as(db, change, |peer| peer).await
    }

    async fn start_as(
        db: &TestDb<B>,
        change: impl FnOnce(&mut HttpServerConfig),
        declare: impl FnOnce(Peer) -> Peer,
    ) -> Self {
        Self::start_on(db.open(8), change, declare).await
    }

    async fn start_on(
        pool: sqlx::Pool<B>,
        change: impl FnOnce(&mut HttpServerConfig),
        declare: impl FnOnce(Peer) -> Peer,
    ) -> Self {
        let mut config = HttpServerConfig::at("127.0.0.1:0");
        config.lanes = 2;
        change(&mut config);
        let lanes = config.lanes;
        let server = HttpServer::new(config).unwrap();
        let address = server.local_address();
        let peer = declare(Peer::new("web", server).mapping(Mapping::to("request/all").unwrap()));
        let peers = Peers::builder(pool).config(super::config()).peer(peer).start().await.unwrap();
        peers.ready(SOON).await.unwrap();
        eventually(SOON, async || peers.streams("web") == lanes).await;
        let address = timeout(SOON, address.bound()).await.unwrap().unwrap();
        Web { peers, address }
    }

    /// Begins a request with a body, and goes on while it waits.
    fn post(&self, path: &str, body: &str) -> JoinHandle<Reply> {
        self.send(&format!("POST {path} HTTP/1.1\r\ncontent-type: text/plain"), body)
    }

    fn send(&self, head: &str, body: &str) -> JoinHandle<Reply> {
        tokio::spawn(send(self.address, head.to_owned(), body.to_owned()))
    }

    async fn stop(&self) {
        let report = self.peers.stop(STOP).await;
        assert!(report.complete, "{report:?}");
    }
}

/// A response as it came over the wire.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

/// Sends a request on a connection of its own. The head needs neither host nor length.
async fn send(address: SocketAddr, head: String, body: String) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let text = format!("{head}\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    Reply::of(&rest(&mut stream).await)
}

/// Reads to the end. A connection that is reset has ended too.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut text)).await.expect("the connection ends");
    String::from_utf8(text).unwrap()
}

/// Waits until so many requests are in the inbox.
async fn requests<B: TestEngine>(db: &TestDb<B>, count: usize) -> Vec<Event> {
    eventually(SOON, async || testing::events_of(&db.pool, &inbox()).await.unwrap().len() >= count).await;
    testing::events_of(&db.pool, &inbox()).await.unwrap()
}

/// The eventbox of the stream on which an event came.
fn box_of(event: &Event) -> Recipient {
    let stream = event.origin().unwrap().streams_of("web").next().unwrap().to_owned();
    Recipient::new("peer.web", &stream).unwrap()
}

/// Emits an answer as a turn does that consumes these requests of one stream.
async fn answer<B: CellEngine>(db: &TestDb<B>, requests: &[&Event], value: &str) {
    let answer = requests.iter().fold(Event::new(value.to_owned()), |answer, request| answer.caused_by(request));
    super::emit_event(db, &box_of(requests[0]), answer).await;
}

/// Waits until an event of a recipient is in quarantine, and returns why.
async fn refusal<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> String {
    eventually(SOON, async || !admin::quarantined(&db.pool, of, None, 10).await.unwrap().is_empty()).await;
    admin::quarantined(&db.pool, of, None, 10).await.unwrap().remove(0).reason
}

/// Waits until a recipient has no events.
async fn emptied<B: TestEngine>(db: &TestDb<B>, of: &Recipient) {
    eventually(SOON, async || testing::events_of(&db.pool, of).await.unwrap().is_empty()).await;
}
