//! A proxy between a pool and Postgres that loses what it is told to lose.
//!
//! It understands just enough of the protocol to see messages: one that ends a transaction (`COMMIT`) or runs a statement (Execute)
//! can meet a [`Fate`].

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What a client's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// `COMMIT`.
    Commit,
    /// The run of a prepared statement.
    Execute,
}

/// What happens to a message and its answer.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The server does what it is asked and answers; the client's connection is cut instead of delivering the answer.
    AnswerLost,
    /// Both connections are cut before the server has seen the message.
    CutBefore,
    /// The client's connection is cut; the server does not notice until it is told how it ends.
    Orphaned(oneshot::Receiver<Orphan>),
}

/// How an orphaned connection of the server ends.
#[derive(Debug)]
pub(crate) enum Orphan {
    /// The message arrives after all.
    Delivered,
    /// The server notices that the client is gone.
    Cut,
}

/// The proxy; it ends, with all connections, when dropped.
pub(crate) struct Proxy {
    port: u16,
    upstream: PgConnectOptions,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    fates: Mutex<VecDeque<(Message, Fate)>>,
    /// How many connections met their fate.
    cuts: watch::Sender<usize>,
    /// Whether new connections reach the server.
    open: watch::Sender<bool>,
    /// How many connections there were.
    made: AtomicUsize,
    /// The connections before this one are silent: nothing comes through any more, and nothing says so.
    silent_before: AtomicUsize,
}

impl Proxy {
    /// A proxy in front of a database.
    pub(crate) async fn start(upstream: PgConnectOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            fates: Mutex::default(),
            cuts: watch::Sender::new(0),
            open: watch::Sender::new(true),
            made: AtomicUsize::new(0),
            silent_before: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, upstream.clone(), Arc::clone(&shared)));
        Proxy { port, upstream, shared, accepting }
    }

    /// A pool of one connection that goes through the proxy; the connection is there already.
    pub(crate) async fn pool(&self) -> PgPool {
        self.pool_of(1).await
    }

    /// How the database is reached through the proxy.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.upstream.clone().host("127.0.0.1").port(self.port).ssl_mode(PgSslMode::Disable)
    }

    /// A pool of several connections that go through the proxy; one of them is there already.
    pub(crate) async fn pool_of(&self, max_connections: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(max_connections).acquire_timeout(Duration::from_secs(30));
        pool.connect_with(self.options()).await.expect("the server accepts connections without TLS")
    }

    /// Says what happens to the next such message, after the ones that were said before.
    pub(crate) fn next(&self, message: Message, fate: Fate) {
        self.shared.fates.lock().unwrap().push_back((message, fate));
    }

    /// New connections wait (or do not wait any more) before they reach the server.
    pub(crate) fn hold_new_connections(&self, hold: bool) {
        self.shared.open.send_replace(!hold);
    }

    /// How many connections were made through it.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// The first connections, so many, are silent from now on: as if their cable were cut.
    pub(crate) fn silence(&self, first: usize) {
        self.shared.silent_before.store(first, Ordering::SeqCst);
    }

    /// Waits until so many connections have met their fate.
    pub(crate) async fn cut(&self, count: usize) {
        let mut cuts = self.shared.cuts.subscribe();
        let cut = tokio::time::timeout(super::SOON, cuts.wait_for(|cuts| *cuts >= count)).await;
        cut.expect("a message met its fate").expect("the proxy lives");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(upstream: &PgConnectOptions) -> io::Result<Box<dyn Stream>> {
    let host = upstream.get_host();
    let socket = upstream.get_socket().map(|path| path.to_string_lossy().into_owned());
    match socket.or_else(|| host.starts_with('/').then(|| host.to_owned())) {
        Some(directory) => {
            let path = format!("{directory}/.s.PGSQL.{}", upstream.get_port());
            Ok(Box::new(UnixStream::connect(path).await?))
        }
        None => Ok(Box::new(TcpStream::connect((host, upstream.get_port())).await?)),
    }
}

async fn accept(listener: TcpListener, upstream: PgConnectOptions, shared: Arc<Shared>) {
    // Dropping the set ends the connections with the proxy.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, shared) = (upstream.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let _ = shared.open.subscribe().wait_for(|open| *open).await;
            // An error here is a connection that one side has closed.
            let _ = serve(client, connect(&upstream).await?, &shared).await;
            io::Result::Ok(())
        });
    }
}

/// What ended a connection.
enum End {
    Cut,
    Orphaned(Vec<u8>, oneshot::Receiver<Orphan>),
}

async fn serve(client: TcpStream, server: Box<dyn Stream>, shared: &Shared) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let answer_is_lost = AtomicBool::new(false);
    let number = shared.made.fetch_add(1, Ordering::SeqCst);
    let end = tokio::select! {
        end = up(&mut from_client, &mut to_server, shared, &answer_is_lost, number) => end?,
        end = down(&mut from_server, &mut to_client, shared, &answer_is_lost, number) => end?,
    };
    drop((from_client, to_client));
    shared.cuts.send_modify(|cuts| *cuts += 1);
    if let End::Orphaned(message, how) = end
        && let Ok(Orphan::Delivered) = how.await
    {
        to_server.write_all(&message).await?;
        while read_message(&mut from_server).await?.first() != Some(&b'Z') {}
    }
    Ok(())
}

/// Client to server.
async fn up(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    answer_is_lost: &AtomicBool,
    number: usize,
) -> io::Result<End> {
    // The first message has no type.
    let length = client.read_u32().await?;
    let mut startup = length.to_be_bytes().to_vec();
    client.take(u64::from(length) - 4).read_to_end(&mut startup).await?;
    server.write_all(&startup).await?;
    loop {
        let message = read_message(client).await?;
        shared.unless_silent(number).await;
        match fate_of(&message, shared) {
            Some(Fate::CutBefore) => return Ok(End::Cut),
            Some(Fate::Orphaned(how)) => return Ok(End::Orphaned(message, how)),
            Some(Fate::AnswerLost) => answer_is_lost.store(true, Ordering::SeqCst),
            None => {}
        }
        server.write_all(&message).await?;
    }
}

/// Server to client.
async fn down(
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    answer_is_lost: &AtomicBool,
    number: usize,
) -> io::Result<End> {
    loop {
        let message = read_message(server).await?;
        shared.unless_silent(number).await;
        if !answer_is_lost.load(Ordering::SeqCst) {
            client.write_all(&message).await?;
        } else if message.first() == Some(&b'Z') {
            // The server is ready for the next query, so it has done this one.
            return Ok(End::Cut);
        }
    }
}

impl Shared {
    /// Never returns for a connection that is silent.
    async fn unless_silent(&self, number: usize) {
        if number < self.silent_before.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

fn fate_of(message: &[u8], shared: &Shared) -> Option<Fate> {
    let kind = match message {
        [b'Q', _, _, _, _, text @ ..] if text.starts_with(b"COMMIT") => Message::Commit,
        [b'E', ..] => Message::Execute,
        _ => return None,
    };
    let mut fates = shared.fates.lock().unwrap();
    fates.pop_front_if(|(wanted, _)| *wanted == kind).map(|(_, fate)| fate)
}

/// One whole message: type, length, body.
async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
    message.resize(1 + length as usize, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}
