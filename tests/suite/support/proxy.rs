//! A proxy between a pool and Postgres that loses the messages and responses that a test chooses.
//!
//! The proxy parses the protocol only as far as needed to recognize messages.
//! A test gives a [`Fate`] to messages that end a transaction (`COMMIT`) or run a statement (Execute).

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

/// Kind of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// `COMMIT`.
    Commit,
    /// The run of a prepared statement.
    Execute,
}

/// Fate of a message and its response.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The server executes the message and responds. The proxy cuts the client's connection instead of the response.
    AnswerLost,
    /// The proxy cuts both connections before the server has seen the message.
    CutBefore,
    /// The proxy cuts the client's connection. The server does not notice until the test sends an [`Orphan`].
    Orphaned(oneshot::Receiver<Orphan>),
}

/// End of an orphaned connection of the server.
#[derive(Debug)]
pub(crate) enum Orphan {
    /// The proxy delivers the message late.
    Delivered,
    /// The server notices that the client is gone.
    Cut,
}

/// The proxy. Dropping it ends all connections.
pub(crate) struct Proxy {
    port: u16,
    upstream: PgConnectOptions,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    fates: Mutex<VecDeque<(Message, Fate)>>,
    /// Number of connections that met their fate.
    cuts: watch::Sender<usize>,
    /// Whether new connections reach the server.
    open: watch::Sender<bool>,
    /// Number of connections that were made.
    made: AtomicUsize,
    /// Number of the first connection that works. Those before it are silent: open, but without traffic.
    silent_before: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy in front of a database.
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

    /// Opens a pool of one connection through the proxy, and connects it.
    pub(crate) async fn pool(&self) -> PgPool {
        self.pool_of(1).await
    }

    /// Returns the connect options through the proxy.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.upstream.clone().host("127.0.0.1").port(self.port).ssl_mode(PgSslMode::Disable)
    }

    /// Opens a pool of several connections through the proxy, and connects one of them.
    pub(crate) async fn pool_of(&self, max_connections: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(max_connections).acquire_timeout(Duration::from_secs(30));
        pool.connect_with(self.options()).await.expect("the server accepts connections without TLS")
    }

    /// Queues a fate for a message. Each matching message takes the next fate of the queue.
    pub(crate) fn next(&self, message: Message, fate: Fate) {
        self.shared.fates.lock().unwrap().push_back((message, fate));
    }

    /// Makes new connections wait before they reach the server, or releases them.
    pub(crate) fn hold_new_connections(&self, hold: bool) {
        self.shared.open.send_replace(!hold);
    }

    /// Returns the number of connections made through the proxy.
    pub(crate) fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// Makes the first `first` connections silent, as if their cable were cut.
    pub(crate) fn silence(&self, first: usize) {
        self.shared.silent_before.store(first, Ordering::SeqCst);
    }

    /// Waits until `count` connections have met their fate.
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
    // Dropping the set ends the connections together with the proxy.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, shared) = (upstream.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let _ = shared.open.subscribe().wait_for(|open| *open).await;
            // An error means that one side has closed the connection.
            let _ = serve(client, connect(&upstream).await?, &shared).await;
            io::Result::Ok(())
        });
    }
}

/// Reason of the end of a connection.
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

/// Forwards messages from the client to the server.
async fn up(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    answer_is_lost: &AtomicBool,
    number: usize,
) -> io::Result<End> {
    // The first message has no type byte.
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

/// Forwards messages from the server to the client.
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
            // The server is ready for the next query, so it has finished the last one.
            return Ok(End::Cut);
        }
    }
}

impl Shared {
    /// Returns at once for a working connection, and never for a silent one.
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

/// Reads one whole message: type, length, body.
async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
    message.resize(1 + length as usize, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}
