//! Peers: connections to the outside, whose streams are recipients.

mod core;
mod crash;
mod edge;
mod file;
mod foreign;
mod http;
mod ingress;
mod pipe;
mod sockets;
mod sources;

use std::time::Duration;

use eventbox::peer::{Mapping, Peer, Peers, PeersBuilder, PeersConfig};
use eventbox::{Backend, Event, Recipient};
use sqlx::Pool;

use self::pipe::Pipes;
use crate::support::running::config as runtime_config;
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually};

/// Longest time that the peers of a test may take to stop.
const STOP: Duration = Duration::from_secs(20);

/// Returns the settings of a test: short leases, and frequent looks at lost streams.
fn config() -> PeersConfig {
    let mut config = PeersConfig::default();
    config.runtime = runtime_config();
    // Peers need leases, also where a run of the tests has switched them off.
    config.runtime.leases = Some(crate::support::running::leases());
    config.sweep_interval = Duration::from_millis(100);
    config
}

fn peers<B: TestEngine>(db: &TestDb<B>) -> PeersBuilder<B> {
    Peers::builder(db.pool.clone()).config(config())
}

/// Returns the peer `chat`, whose lines go to `room/<stream>`.
fn chat(pipes: &Pipes) -> Peer {
    let lines = eventbox::peer::framing::InterceptorSpec::named("lines").unwrap();
    Peer::new("chat", pipes.clone()).interceptors([lines]).mapping(Mapping::to("room/{stream}").unwrap())
}

fn room(stream: &str) -> Recipient {
    Recipient::new("room", stream).unwrap()
}

/// Returns the eventbox of a stream of `chat`.
fn out(stream: &str) -> Recipient {
    Recipient::new("peer.chat", stream).unwrap()
}

/// Returns the values of the events in a box.
async fn values<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<String> {
    let events = eventbox::admin::events(&db.pool, of, None, 1_000).await.unwrap();
    events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect()
}

/// Returns the names of the events in a box.
async fn names<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<String> {
    let events = eventbox::admin::events(&db.pool, of, None, 1_000).await.unwrap();
    events.iter().map(|event| event.name().unwrap_or_default().to_owned()).collect()
}

async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, value: &str) {
    emit_event(db, to, Event::new(value.to_owned())).await;
}

async fn emit_event<B: CellEngine>(db: &TestDb<B>, to: &Recipient, event: Event) {
    let mut conn = db.pool.acquire().await.unwrap();
    B::emit_all(&mut conn, &[(to.clone(), event)]).await.unwrap();
}

async fn is_empty<B: TestEngine>(db: &TestDb<B>, of: &Recipient) {
    eventually(SOON, async || values(db, of).await.is_empty()).await;
}

/// Runs one peer, and returns when it is connected.
async fn run<B: Backend>(pool: &Pool<B>, peer: Peer) -> Peers<B> {
    let peers = Peers::builder(pool.clone()).config(config()).peer(peer).start().await.unwrap();
    peers.ready(STOP).await.unwrap();
    peers
}

/// The eventbox of a stream.
fn box_of(peer: &str, stream: &str) -> Recipient {
    Recipient::new(format!("peer.{peer}"), stream).unwrap()
}

/// Returns the values of the events of a recipient, as texts.
async fn texts<B: Backend>(pool: &Pool<B>, recipient: &str) -> Vec<String> {
    let events = eventbox::admin::events(pool, &recipient.parse().unwrap(), None, 1_000).await.unwrap();
    events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect()
}
