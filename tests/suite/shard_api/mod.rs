//! The shard API over real gRPC, and requests that are sent on to the holder of a recipient.

mod access;
mod client;
mod foreign;
mod proxy;
mod specs;
mod stat;

use eventbox::proto::consumer::{Label, LabelSelector, LabelSet, ShardSpec};
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::shard_api::{Listen, ShardApi, ShardClient, ShardServerHandle, ShardService, Shards};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use tokio::net::TcpListener;

use crate::support::running::{STOP, config, leases};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually};

/// Counts events.
struct Counter;

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

fn counter(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("counter", key.to_string()).unwrap()
}

/// Returns a service that listens, and a client of it.
async fn served(service: ShardService, listen: impl Into<Listen>) -> (ShardServerHandle, ShardClient) {
    let server = service.serve(listen).await.unwrap();
    let client = ShardClient::connect(server.local_addr().to_string()).await.unwrap();
    (server, client)
}

/// Serves an API without credentials.
async fn open(api: impl ShardApi) -> (ShardServerHandle, ShardClient) {
    served(ShardService::new(api), "127.0.0.1:0").await
}

/// A process with a runtime and the shard API.
struct Member<B: TestEngine> {
    runtime: Runtime<B>,
    server: ShardServerHandle,
    client: ShardClient,
}

fn at(endpoint: Option<String>) -> RuntimeConfig {
    let mut config = config();
    config.leases = Some(leases());
    config.endpoint = endpoint;
    config
}

async fn counting<B: TestEngine>(db: &TestDb<B>, endpoint: Option<String>) -> Runtime<B> {
    Runtime::builder(db.open(4)).reducer("counter", Counter).config(at(endpoint)).start().await.unwrap()
}

async fn member<B: TestEngine>(db: &TestDb<B>) -> Member<B> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let runtime = counting(db, Some(format!("http://{}", listener.local_addr().unwrap()))).await;
    let api = Shards::new(db.pool.clone()).on(&runtime);
    let (server, client) = served(ShardService::new(api), listener).await;
    Member { runtime, server, client }
}

/// Waits until two runtimes have half of the shards each.
async fn shared<B: TestEngine>(one: &Runtime<B>, two: &Runtime<B>) {
    eventually(SOON, async || one.shards() == 128 && two.shards() == 128).await;
}

/// Returns a recipient on which a runtime works.
async fn recipient_of<B: TestEngine>(runtime: &Runtime<B>) -> Recipient {
    for key in 0.. {
        let recipient = counter(key);
        if runtime.resolve(&recipient).await.unwrap().is_here {
            return recipient;
        }
    }
    unreachable!("it has shards");
}

async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient) -> String {
    B::emit_on(&db.pool, to, Event::new("x")).await.unwrap().to_string()
}

fn label(name: &str, value: &str) -> Label {
    Label { name: name.to_owned(), value: value.to_owned(), prefix: false }
}

fn set(labels: impl IntoIterator<Item = Label>) -> Option<LabelSet> {
    Some(LabelSet { labels: labels.into_iter().collect() })
}

fn including(labels: impl IntoIterator<Item = Label>) -> LabelSelector {
    LabelSelector { include: set(labels), exclude: None }
}

fn labelled(id: &str, team: &str) -> ShardSpec {
    ShardSpec { id: id.to_owned(), labels: set([label("team", team)]), ..ShardSpec::default() }
}
