//! A process that is killed with -9 in the middle of a hundred TCP streams. The process is this test binary, started
//! again with one test's name.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::peer::{
    Arrival, Connector, ConnectorError, EndReason, Mapping, Peer, PeerLimits, Peers, Role, Session, Stream,
    StreamFacts, StreamId,
};
use eventbox::{Event, EventId, Recipient};
use sqlx::pool::PoolOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config;
use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine};

/// Environment variable of the child: the database.
const URL: &str = "EVENTBOX_TEST_PEERS_URL";

/// Beginning of the line that the child prints when it listens.
const LISTENING: &str = "listening on ";

const CLIENTS: usize = 100;

/// Lines that each client sends.
const LINES: usize = 40;

/// Lines that a client sends ahead of their acknowledgements.
const AHEAD: usize = 5;

/// Events that are sent to each client.
const EVENTS: usize = 30;

/// Pause of a client before it connects again.
const AGAIN: Duration = Duration::from_millis(100);

/// A server of lines with numbers. A client says its name, which is the id of its stream. `line 7` is answered by
/// `ok 7` after the commit, and `event 7` is acknowledged by `got 7`.
struct NumberedLines;

#[async_trait]
impl Connector for NumberedLines {
    fn name(&self) -> &'static str {
        "numbered-lines"
    }

    fn endpoint(&self) -> String {
        "127.0.0.1:0".to_owned()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    fn keeps_stream_ids(&self) -> bool {
        true
    }

    #[allow(clippy::print_stdout, reason = "the test reads what its child says")]
    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let listener = TcpListener::bind(self.endpoint()).await.unwrap();
        println!("{LISTENING}{}", listener.local_addr().unwrap());
        session.connected();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let session = session.clone();
            // A client whose stream still belongs to the dead process is turned away.
            tokio::spawn(async move { drop(serve(session, socket).await) });
        }
    }
}

async fn serve(session: Session, socket: TcpStream) -> Result<(), eventbox::BoxError> {
    let (read, write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    let name = lines.next_line().await?.ok_or("a client says its name")?;
    let mut stream = session.open(StreamId::new(name)?, StreamFacts::new()).await?;
    let reason = match talk(&mut stream, lines, write).await {
        Ok(()) => EndReason::Closed,
        Err(error) => EndReason::Failed(error.to_string()),
    };
    Ok(stream.end(reason).await?)
}

async fn talk(
    stream: &mut Stream,
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    mut write: OwnedWriteHalf,
) -> Result<(), eventbox::BoxError> {
    let Stream { incoming, outgoing, .. } = stream;
    let mut sent: HashMap<String, EventId> = HashMap::new();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match line.split_once(' ') {
                    Some(("line", number)) => {
                        incoming.receive(Arrival::value(line.clone()).id(number)).await?;
                        write.write_all(format!("ok {number}\n").as_bytes()).await?;
                    }
                    Some(("got", number)) => outgoing.ack_events(&[sent.remove(number).ok_or("it was sent")?]),
                    _ => return Err(format!("no such line: {line}").into()),
                }
            }
            batch = outgoing.next() => {
                let Some(batch) = batch else { return Ok(()) };
                for event in outgoing.detach(batch) {
                    let number = String::from_utf8(event.event.value().to_vec())?;
                    write.write_all(format!("event {number}\n").as_bytes()).await?;
                    sent.insert(number, event.event.id());
                }
            }
        }
    }
}

/// Runs the peer when a test has started this process, and else nothing.
#[test]
#[ignore = "the child process of the test of this file"]
fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if url.starts_with("postgres") {
            serve_for_ever(PoolOptions::<sqlx::Postgres>::new().max_connections(6).connect(&url).await.unwrap()).await;
        } else {
            let file: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
            let options = eventbox::sqlite_options(file.get_filename());
            let pool = PoolOptions::<sqlx::Sqlite>::new().max_connections(6).connect_with(options).await.unwrap();
            serve_for_ever(pool).await;
        }
    });
}

async fn serve_for_ever<B: eventbox::Backend>(pool: sqlx::Pool<B>) {
    let mut limits = PeerLimits::default();
    limits.in_flight = NonZeroUsize::new(4).unwrap();
    let peer = Peer::new("lines", NumberedLines).mapping(Mapping::to("line/{stream}").unwrap()).limits(limits);
    let _peers = Peers::builder(pool).config(config()).peer(peer).start().await.unwrap();
    std::future::pending::<()>().await;
}

/// Starts the process, and returns where it listens.
async fn start<B: CellEngine>(db: &TestDb<B>) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "peer::crash::child", "--ignored", "--nocapture"]).env(URL, db.url());
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let address = tokio::time::timeout(SOON, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the child listens");
            if let Some((_, address)) = line.split_once(LISTENING) {
                return address.parse().unwrap();
            }
        }
    });
    let address = address.await.expect("the child starts in time");
    // Its output must not fill up.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (process, address)
}

/// What one client has seen.
#[derive(Debug, Default, Clone)]
struct Seen {
    /// Lines that were acknowledged, from the first one on.
    acknowledged: usize,
    /// Events, each with the number of the process that sent it.
    events: Vec<(usize, usize)>,
}

type All = Arc<Mutex<Vec<Seen>>>;

fn name_of(client: usize) -> String {
    format!("client-{client}")
}

/// Connects again and again. Each time the client re-sends what was not acknowledged.
async fn client(number: usize, mut server: watch::Receiver<(usize, Option<SocketAddr>)>, all: All) {
    loop {
        let (process, address) = *server.wait_for(|(_, address)| address.is_some()).await.unwrap();
        let _ = converse(number, process, address.unwrap(), &all).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn converse(number: usize, process: usize, address: SocketAddr, all: &All) -> io::Result<()> {
    let (read, mut write) = TcpStream::connect(address).await?.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(format!("{}\n", name_of(number)).as_bytes()).await?;
    let mut acknowledged = all.lock().unwrap()[number].acknowledged;
    let mut next = acknowledged;
    loop {
        while next < LINES.min(acknowledged + AHEAD) {
            write.write_all(format!("line {next}\n").as_bytes()).await?;
            next += 1;
        }
        let Some(line) = lines.next_line().await? else { return Ok(()) };
        let (word, of) = line.split_once(' ').unwrap();
        let of: usize = of.parse().unwrap();
        if word == "ok" {
            assert_eq!(of, acknowledged, "lines are acknowledged in order");
            acknowledged += 1;
            all.lock().unwrap()[number].acknowledged = acknowledged;
        } else {
            all.lock().unwrap()[number].events.push((process, of));
            write.write_all(format!("got {of}\n").as_bytes()).await?;
        }
    }
}

fn line_name(client: usize, line: usize) -> String {
    format!("lines:{}:{line}", name_of(client))
}

fn event_name(client: usize, event: usize) -> String {
    format!("{}/{event}", name_of(client))
}

async fn names<B: CellEngine>(db: &TestDb<B>, of: &str) -> Vec<String> {
    db.texts(format_args!("SELECT name FROM eventbox_event WHERE recipient LIKE '{of}/%' ORDER BY recipient, id")).await
}

on_every_engine! {
    /// Three processes, of which two are killed. Every acknowledged line is in its eventbox once, at each moment and in
    /// the end. Every event reaches its client, and what a process had consumed is never sent by a later one.
    async fn a_process_that_is_killed_loses_no_line_and_repeats_none(db) {
        let mut events = Vec::new();
        for client in 0..CLIENTS {
            let to = Recipient::new("peer.lines", name_of(client)).unwrap();
            events.extend((0..EVENTS).map(|event| {
                (to.clone(), Event::new(event.to_string()).named(event_name(client, event)))
            }));
        }
        let mut conn = db.pool.acquire().await.unwrap();
        <Engine as CellEngine>::emit_all(&mut conn, &events).await.unwrap();
        drop(conn);

        let all: All = Arc::new(Mutex::new(vec![Seen::default(); CLIENTS]));
        let (server, address) = watch::channel((0, None));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(number, address.clone(), Arc::clone(&all)));
        }
        let seen = || all.lock().unwrap().clone();
        let done = || seen().iter().map(|seen| seen.acknowledged + seen.events.len()).sum::<usize>();
        let mut unconsumed: Vec<BTreeSet<String>> = Vec::new();
        for process in 0..3 {
            unconsumed.push(names(db, "peer.lines").await.into_iter().collect());
            let (mut child, address) = start(db).await;
            server.send_replace((process, Some(address)));
            if process < 2 {
                let part = (process + 1) * CLIENTS * (LINES + EVENTS) / 3;
                eventually(SOON * 4, async || done() >= part).await;
                child.kill().await.unwrap();
                server.send_replace((process, None));
                let (seen, stored) = (seen(), names(db, "line").await.into_iter().collect::<BTreeSet<_>>());
                let is_stored = |client, line| stored.contains(&line_name(client, line));
                for (client, seen) in seen.iter().enumerate() {
                    assert!((0..seen.acknowledged).all(|line| is_stored(client, line)), "{client}: {seen:?}");
                }
                continue;
            }
            let all_lines = async || seen().iter().all(|seen| seen.acknowledged == LINES);
            eventually(SOON * 4, all_lines).await;
            eventually(SOON * 4, async || names(db, "peer.lines").await.is_empty()).await;
            child.kill().await.unwrap();
        }
        clients.shutdown().await;

        for (client, seen) in seen().iter().enumerate() {
            let stored: Vec<String> = db
                .texts(format_args!(
                    "SELECT name FROM eventbox_event WHERE recipient = 'line/{}' ORDER BY id", name_of(client)
                ))
                .await;
            let wanted: Vec<String> = (0..LINES).map(|line| line_name(client, line)).collect();
            assert_eq!(stored, wanted, "each line once, and in order");
            let arrived: BTreeSet<usize> = seen.events.iter().map(|(_, event)| *event).collect();
            assert_eq!(arrived, (0..EVENTS).collect(), "each event at least once");
            for (process, consumed) in unconsumed.iter().enumerate() {
                let of = seen.events.iter().filter(|(from, _)| *from == process).map(|(_, event)| *event);
                let of: Vec<usize> = of.collect();
                assert!(of.is_sorted(), "{client} got {of:?} from one process");
                let again = of.iter().filter(|event| !consumed.contains(&event_name(client, **event)));
                assert_eq!(again.count(), 0, "process {process} sent what was consumed before");
            }
        }
    }
}
