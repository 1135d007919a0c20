//! The HTTP server: a request is emitted, and waits for the event that answers it.

mod answer;
mod config;
mod connection;
mod lane;
mod refusal;
mod request;
mod routes;
mod stall;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::answer::Answer;
pub use self::config::{HttpMode, HttpServerConfig, MAX_LANES, MIN_TOKEN_BYTES};
use self::config::{NAME, Settings};
pub use self::connection::MAX_STREAMS;
pub use self::lane::LANE_QUEUE;
use self::lane::{Entrance, Lane};
pub use self::routes::Route;
pub use self::waiting::MAX_KEPT_ANSWERS;
use self::waiting::{Place, Waiting};
use crate::peer::connectors::LocalAddress;
use crate::peer::connectors::tcp::Announcement;
use crate::peer::connectors::wire::{ServerTls, load_again};
use crate::peer::{Connector, ConnectorError, PeerError, Role, Session};

/// Wait after an error of the operating system at accepting, such as too many open files.
const ACCEPT_WAIT: Duration = Duration::from_millis(200);

/// Takes requests over HTTP/1 and HTTP/2 as events, and gives the events that answer them as responses.
///
/// A few streams, the *lanes*, share the requests. A request has a number, which its event has in its origin. An event
/// in the eventbox of the lane answers every request that caused it: so a turn that consumes one request answers it by
/// an emit to `peer.<peer>/<stream>`, and one that consumes many answers them all at once. With
/// [`Format::Envelope`](super::Format::Envelope) an answer may name its `request` instead. An answer that finds no
/// request that waits is refused, into the quarantine of its stream, and counted as unroutable.
///
/// # What a client sees
///
/// | Status | Reason |
/// | --- | --- |
/// | of the answer, or 200 | an event answered the request |
/// | 202 | [`HttpMode::Accept`]: the events are committed |
/// | 204 or 422 | the body had no event |
/// | 400 | the body could not be read |
/// | 401, 404, 405 | wrong token; path or method is not declared |
/// | 408, 413 | the body was too slow, or too large |
/// | 409 | a request with this `idempotency-key` was taken before, and its answer is not known here any more |
/// | 502 | the event that answers is not a response |
/// | 503 | the database does not answer, too many requests, or a stop; the client may try again |
/// | 504 | no answer came in time; the turn may still come, and an answer that comes later is unroutable |
///
/// A request that waits for its answer is durable with the turn that answers it: its own commit does not wait for the
/// disk (see [`Arrival::acknowledged_by_answer`](crate::peer::Arrival::acknowledged_by_answer)). With 202, and with
/// an `idempotency-key`, it is durable before the response.
///
/// A client that sends `idempotency-key` may send its request again, to any process of the peer: its events are emitted
/// once. While the answer is in this process it gets the same answer.
///
/// # Units and limits
///
/// See [`HttpServerConfig`]; each has a default. [`LANE_QUEUE`] requests wait for a lane, and a connection of HTTP/2
/// has [`MAX_STREAMS`] requests.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::http::{HttpServer, HttpServerConfig};
///
/// let server = HttpServer::new(HttpServerConfig::at("127.0.0.1:8080"))?;
/// assert_eq!((server.name(), server.endpoint().as_str()), ("http-server", "127.0.0.1:8080"));
/// assert!(HttpServer::new(HttpServerConfig::default()).is_err(), "the address is missing");
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct HttpServer {
    settings: Arc<Settings>,
    announcement: Announcement,
}

impl HttpServer {
    /// Makes a server. It binds when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when a setting is wrong, or files of TLS cannot be used.
    pub fn new(config: HttpServerConfig) -> Result<Self, PeerError> {
        let settings = Arc::new(Settings::check(config)?);
        if let Some(tls) = &settings.config.tls {
            ServerTls::load(tls.clone()).map_err(|error| PeerError::setup(NAME, error.to_string()))?;
        }
        Ok(HttpServer { settings, announcement: Announcement::new() })
    }

    /// Returns where the server listens.
    #[must_use]
    pub fn local_address(&self) -> LocalAddress {
        self.announcement.subscribe()
    }
}

/// What all connections and lanes of one life share.
struct Shared {
    settings: Arc<Settings>,
    peer: String,
    tls: Option<ServerTls>,
    waiting: Arc<Waiting>,
    lanes: Vec<Entrance>,
    last_number: AtomicU64,
    places: Semaphore,
    write_timeout: Duration,
    /// A stop was asked: no new requests.
    stopping: CancellationToken,
    /// The time for answers is over.
    closing: CancellationToken,
}

impl Shared {
    /// Returns the place of the next request, and the entrance of its lane.
    ///
    /// The request takes the first of the lanes that have the least to emit. So few lanes have many requests each, and
    /// one turn of a lane's stream sends or consumes the answers of several.
    fn next_place(&self) -> Option<(Place, &Entrance)> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let (lane, entrance) = (0..).zip(&self.lanes).min_by_key(|(_, entrance)| entrance.busy.count())?;
        Some(((lane, number), entrance))
    }

    fn count_unroutable(&self) {
        metrics::counter!(crate::peer::metrics::UNROUTABLE, "peer" => self.peer.clone()).increment(1);
    }
}

#[async_trait]
impl Connector for HttpServer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.settings.config.address.clone()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    fn has_whole_messages(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let address = &self.settings.config.address;
        let failed = |source| ConnectorError::connect(format!("listen on {address}"), source);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let _told = self.announcement.tell(listener.local_addr().map_err(failed)?);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..self.settings.config.lanes).map(|_| Entrance::new()).unzip();
        let shared = Arc::new(self.shared(&session, senders)?);
        let mut server = Server { shared, lanes: JoinSet::new(), connections: JoinSet::new() };
        for (number, jobs) in (0..).zip(receivers) {
            let lane = Lane { shared: Arc::clone(&server.shared), number, jobs };
            server.lanes.spawn(lane.run(session.clone()));
        }
        session.connected();
        let served = server.accept(&listener).await;
        drop(listener);
        server.finish(served).await
    }
}

impl HttpServer {
    fn shared(&self, session: &Session, lanes: Vec<Entrance>) -> Result<Shared, ConnectorError> {
        let settings = Arc::clone(&self.settings);
        Ok(Shared {
            tls: load_again(settings.config.tls.as_ref())?,
            peer: session.peer().to_owned(),
            waiting: Arc::new(Waiting::new(settings.answer_deadline)),
            lanes,
            last_number: AtomicU64::new(0),
            places: Semaphore::new(settings.config.requests.min(Semaphore::MAX_PERMITS)),
            write_timeout: session.limits().write_timeout,
            stopping: session.stopping(),
            closing: CancellationToken::new(),
            settings,
        })
    }
}

/// One life of a server. Dropping it ends all connections and lanes.
struct Server {
    shared: Arc<Shared>,
    lanes: JoinSet<Result<(), ConnectorError>>,
    connections: JoinSet<()>,
}

impl Server {
    /// Accepts connections until a stop, or until a lane fails.
    async fn accept(&mut self, listener: &TcpListener) -> Result<(), ConnectorError> {
        loop {
            tokio::select! {
                () = self.shared.stopping.cancelled() => return Ok(()),
                Some(ended) = self.lanes.join_next() => return joined(ended),
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => self.take(stream, remote),
                    Err(error) => {
                        tracing::debug!(%error, peer = self.shared.peer, "a connection of HTTP could not be accepted");
                        sleep(ACCEPT_WAIT).await;
                    }
                },
            }
        }
    }

    fn take(&mut self, stream: TcpStream, remote: SocketAddr) {
        if self.connections.len() >= self.shared.settings.config.connections {
            // Dropped, and so closed.
            return tracing::warn!(peer = self.shared.peer, %remote, "too many connections of HTTP: raise connections");
        }
        self.connections.spawn(connection::serve(Arc::clone(&self.shared), stream, remote));
    }

    /// Gives the requests in flight time for their answers, answers the others with 503, and ends everything.
    async fn finish(mut self, served: Result<(), ConnectorError>) -> Result<(), ConnectorError> {
        let shared = Arc::clone(&self.shared);
        if served.is_ok() {
            // The answers come, or their time is over.
            let _ = timeout(shared.settings.stop_grace, shared.waiting.nobody()).await;
        }
        shared.closing.cancel();
        shared.waiting.tell_all(Answer::stopping());
        let closed = async { while self.connections.join_next().await.is_some() {} };
        let _ = timeout(shared.write_timeout, closed).await;
        self.connections.shutdown().await;
        let mut outcome = served;
        while let Some(ended) = self.lanes.join_next().await {
            outcome = outcome.and(joined(ended));
        }
        outcome
    }
}

/// Returns how a lane ended.
fn joined(ended: Result<Result<(), ConnectorError>, tokio::task::JoinError>) -> Result<(), ConnectorError> {
    ended.unwrap_or_else(|panic| Err(ConnectorError::lost("the lanes of the server", panic)))
}
