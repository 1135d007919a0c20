//! A chat over TCP. A room is an entity: it gets the lines of all clients, and sends each of them to all members.
//!
//! Two clients connect, talk, and one leaves. `cargo run --example chat_over_tcp --features peer`

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use eventbox::peer::connectors::{TcpServer, TcpServerConfig};
use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{Mapping, Peer, Peers};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long the example waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Id of the peer. The eventbox of a client is `peer.chat/<its stream>`.
const PEER: &str = "chat";

/// The life of a stream, as the peer tells it.
#[derive(Deserialize)]
struct Signal {
    signal: String,
    stream: String,
}

/// A room with the names of its members, by stream.
struct Room;

impl Reducer for Room {
    type State = BTreeMap<String, String>;

    fn reduce(
        &self,
        _room: &Recipient,
        events: &[Event],
        mut members: BTreeMap<String, String>,
    ) -> Result<Outcome<BTreeMap<String, String>>, BoxError> {
        let mut sent = Vec::new();
        for event in events {
            let Some(said) = hear(event, &mut members)? else { continue };
            for stream in members.keys() {
                sent.push((Recipient::new(format!("peer.{PEER}"), stream)?, Event::new(said.clone())));
            }
        }
        Ok(Outcome::to(members).consuming(events).emitting(sent))
    }
}

/// Takes one event, and returns what all members are to read.
fn hear(event: &Event, members: &mut BTreeMap<String, String>) -> Result<Option<String>, BoxError> {
    // A line has an origin: the stream on which it came. What has none is a signal of the peer.
    let Some(stream) = event.origin().and_then(|origin| origin.streams_of(PEER).next()) else {
        let signal: Signal = event.json()?;
        let left = if signal.signal == "stream_ended" { members.remove(&signal.stream) } else { None };
        return Ok(left.map(|name| format!("* {name} has left")));
    };
    let line = String::from_utf8_lossy(event.value());
    Ok(Some(match members.get(stream) {
        Some(name) => format!("{name}: {line}"),
        None => {
            members.insert(stream.to_owned(), line.to_string());
            format!("* {line} is here")
        }
    }))
}

/// A client: its first line is its name.
struct Client {
    name: &'static str,
    socket: BufReader<TcpStream>,
}

impl Client {
    async fn connect(to: SocketAddr, name: &'static str) -> Result<Self, BoxError> {
        let mut client = Client { name, socket: BufReader::new(TcpStream::connect(to).await?) };
        client.say(name).await?;
        Ok(client)
    }

    async fn say(&mut self, line: &str) -> Result<(), BoxError> {
        Ok(self.socket.write_all(format!("{line}\n").as_bytes()).await?)
    }

    async fn reads(&mut self, wanted: &str) -> Result<(), BoxError> {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.socket.read_line(&mut line)).await??;
        println!("{} reads: {}", self.name, line.trim_end());
        assert_eq!(line.trim_end(), wanted);
        Ok(())
    }

    async fn two_lines(&mut self) -> Result<String, BoxError> {
        let mut lines = String::new();
        for _ in 0..2 {
            tokio::time::timeout(PATIENCE, self.socket.read_line(&mut lines)).await??;
        }
        Ok(lines.trim_end().replace('\n', ", "))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = eventbox::pool_options::<sqlx::Sqlite>().max_connections(6);
    let pool = pool.connect_with(eventbox::sqlite_options(directory.path().join("chat.sqlite3"))).await?;
    eventbox::migrate(&pool).await?;

    // Lines of every client, and the beginnings and ends of their streams, go to the same room.
    let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0"))?;
    let address = server.local_address();
    let chat = Peer::new(PEER, server)
        .interceptors([InterceptorSpec::named("lines")?])
        .mapping(Mapping::to("room/lobby")?.with_signals("room/lobby")?);
    let rooms = Runtime::builder(pool.clone()).reducer("room", Room).start().await?;
    let peers = Peers::builder(pool).peer(chat).start().await?;
    peers.ready(PATIENCE).await?;
    let address = address.get().ok_or("the server listens")?;

    let mut ada = Client::connect(address, "ada").await?;
    ada.reads("* ada is here").await?;
    let mut grace = Client::connect(address, "grace").await?;
    for client in [&mut ada, &mut grace] {
        client.reads("* grace is here").await?;
    }
    grace.say("hello ada").await?;
    ada.say("hello grace").await?;
    // Lines of two clients have no order between them, but all members read them in the same one.
    let (by_ada, by_grace) = (ada.two_lines().await?, grace.two_lines().await?);
    assert_eq!(by_ada, by_grace);
    println!("both read: {by_ada}");
    drop(grace);
    ada.reads("* grace has left").await?;

    drop(ada);
    peers.stop(PATIENCE).await;
    rooms.stop(PATIENCE).await;
    println!("done");
    Ok(())
}
