//! The other sides of W7: clients of lines and of HTTP, and the same servers by hand without a database.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::HANG_GUARD;
use super::load::Values;

/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Number of kept connections of the HTTP client.
const HTTP_CONNECTIONS: usize = 64;

/// Body of every answer.
pub(crate) const ANSWER: &str = "done";

/// A count that tasks share.
pub(crate) type Count = Arc<AtomicUsize>;

/// Allows as many open files as the system lets this process have: each stream has two ends here.
pub(crate) fn allow_many_files() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    }
}

/// Returns a line as long as the values of other workloads.
pub(crate) fn line() -> Vec<u8> {
    let mut line = Values::get().any().to_vec();
    line.push(b'\n');
    line
}

/// Returns the number of events that each of `parts` sends of all of them.
pub(crate) fn shares(total: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |part| total / parts + usize::from(part < total % parts))
}

/// Waits until `is_so` holds.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + HANG_GUARD;
    while !is_so().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {HANG_GUARD:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until all tasks have ended.
pub(crate) async fn ended(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Writes these lines, many in one system call.
async fn write_lines(socket: impl tokio::io::AsyncWrite + Unpin, lines: usize) -> Result<()> {
    let (mut socket, line) = (BufWriter::new(socket), line());
    for _ in 0..lines {
        socket.write_all(&line).await?;
    }
    Ok(socket.flush().await?)
}

/// Reads lines to the end, and counts them.
async fn count_lines(socket: impl tokio::io::AsyncRead + Unpin, count: Count) -> Result<()> {
    let (mut socket, mut line) = (BufReader::new(socket), Vec::new());
    while socket.read_until(b'\n', &mut line).await? > 0 {
        count.fetch_add(1, Ordering::Relaxed);
        line.clear();
    }
    Ok(())
}

/// Lets each client send its share of the lines. The connections stay open.
pub(crate) async fn send_all(clients: &mut [TcpStream], total: usize) -> Result<()> {
    let shares = shares(total, clients.len());
    let writing = clients.iter_mut().zip(shares).map(|(client, share)| write_lines(client, share));
    futures_util::future::try_join_all(writing).await.map(drop)
}

/// Counts the lines that the clients get.
pub(crate) fn read_all(clients: Vec<TcpStream>) -> (Count, JoinSet<Result<()>>) {
    let (count, mut tasks) = (Count::default(), JoinSet::new());
    for client in clients {
        tasks.spawn(count_lines(client, Arc::clone(&count)));
    }
    (count, tasks)
}

/// The server of lines by hand, with the server's end of every connection.
pub(crate) struct ByHand {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl ByHand {
    pub(crate) async fn bind() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the server by hand")?;
        let address = listener.local_addr()?;
        Ok(ByHand { listener, address })
    }

    /// Connects clients. Returns their ends and the ends of the server.
    pub(crate) async fn connected(&self, clients: usize) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for _ in 0..clients {
            here.push(connect(self.address).await?);
            there.push(self.listener.accept().await?.0);
        }
        Ok((here, there))
    }

    /// Answers HTTP requests at once, without a library.
    pub(crate) async fn answer(self) -> Result<()> {
        let mut tasks = JoinSet::new();
        loop {
            let (socket, _) = self.listener.accept().await?;
            socket.set_nodelay(true)?;
            tasks.spawn(async move {
                let mut socket = BufReader::new(socket);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
                while read_message(&mut socket).await?.is_some() {
                    socket.write_all(answer.as_bytes()).await?;
                }
                anyhow::Ok(())
            });
        }
    }
}

pub(crate) async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(to).await.context("connect to the measured server")?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Sends each event of a stream of the server by hand.
pub(crate) fn serve_all(servers: Vec<TcpStream>, total: usize) -> JoinSet<Result<()>> {
    let (shares, mut tasks) = (shares(total, servers.len()).collect::<Vec<_>>(), JoinSet::new());
    for (server, share) in servers.into_iter().zip(shares) {
        tasks.spawn(write_lines(server, share));
    }
    tasks
}

/// Reads a message of HTTP/1.1 that has a length. Returns its first line and its body; `None` at the end.
async fn read_message(socket: &mut BufReader<TcpStream>) -> Result<Option<(String, Vec<u8>)>> {
    let (mut first, mut length) = (String::new(), 0);
    if socket.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    loop {
        let mut header = String::new();
        socket.read_line(&mut header).await?;
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok(Some((first, body)))
}

/// Sends requests at a steady rate. Returns the latencies in microseconds, each from the moment at which its request
/// was due.
pub(crate) async fn ask(to: SocketAddr, requests: u32, a_second: u32) -> Result<Vec<u64>> {
    let (give_back, mut free) = tokio::sync::mpsc::channel(HTTP_CONNECTIONS);
    for _ in 0..HTTP_CONNECTIONS {
        give_back.try_send(BufReader::new(connect(to).await?)).context("keep a connection")?;
    }
    let mut ticks = ticks(requests, Duration::from_secs(1) / a_second);
    let (mut calls, mut latencies) = (JoinSet::new(), Vec::new());
    for number in 0..requests {
        let due = ticks.recv().await.context("the clock of the load has stopped")?;
        let Some(mut socket) = free.recv().await else { bail!("no connection is left") };
        let give_back = give_back.clone();
        calls.spawn(async move {
            let body = format!("{{\"order\":{number}}}");
            let head = format!("POST /orders HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all([head, body].concat().as_bytes()).await?;
            let (status, answer) = read_message(&mut socket).await?.context("the server closed a connection")?;
            ensure!(status.contains(" 200 ") && answer == ANSWER.as_bytes(), "the answer was {status}");
            let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            give_back.try_send(socket).context("give a connection back")?;
            anyhow::Ok(latency)
        });
    }
    while let Some(ended) = calls.join_next().await {
        latencies.push(ended??);
    }
    Ok(latencies)
}

/// Returns moments at a steady rate, each when it is due. They come from a thread: the runtime's timer may be late by a
/// millisecond, which is a large part of the latencies that are measured.
fn ticks(count: u32, period: Duration) -> tokio::sync::mpsc::Receiver<Instant> {
    let (tick, ticks) = tokio::sync::mpsc::channel(HTTP_CONNECTIONS);
    std::thread::spawn(move || {
        let start = Instant::now();
        for number in 0..count {
            let due = start + period * number;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if tick.blocking_send(due).is_err() {
                break;
            }
        }
    });
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, 4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(shares(2, 3).sum::<usize>(), 2);
    }
}
