//! `eventbox serve`, as a real server.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use eventbox::proto::consumer::{LabelSelector, StatRequest, StatResponse};
use eventbox::shard_api::{ShardApi, ShardClient, ShardService, Shards};
use eventbox::uuid::Uuid;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tonic::{Request, Status};

use super::workers::{hold, join};
use super::{Seed, emit, eventbox, on};
use crate::support::{SOON, TestDb, eventually, on_every_engine};

/// Returns the answer to a request.
async fn get(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn serves<B: Seed>(db: &TestDb<B>) {
    emit(db, eventbox::Event::new("x")).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let url = db.url();
    let args = ["serve", "--listen", "127.0.0.1:0", "--metrics", &free, "--title", "orders", "--database-url", &url];
    let mut command = eventbox(&args);
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let page = first.strip_prefix("serving http://").unwrap_or_else(|| panic!("{first}")).to_owned();
    let overview = get(&page, "/").await;
    assert!(overview.starts_with("HTTP/1.1 200") && overview.contains("orders"), "{overview}");
    assert!(get(&page, "/api/overview").await.contains(r#""kind":"order""#));
    let counted = async || get(&free, "/metrics").await.contains("eventbox_size{kind=\"order\"} 1");
    eventually(SOON, counted).await;
    kill(Pid::from_raw(server.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().await.unwrap().code(), Some(0));
}

/// Serves the shard API with a token. Returns the server, and a client without the token.
async fn serving_shards<B: Seed>(db: &TestDb<B>, args: &[&str]) -> (Child, ShardClient) {
    let url = db.url();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--shard-api", "127.0.0.1:0", "--token", "0123456789abcdef"];
    let mut command = eventbox(&[&serve[..], &["--database-url", &url], args].concat());
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    let second = lines.next_line().await.unwrap().unwrap();
    let client = ShardClient::connect(second.strip_prefix("shard API on ").unwrap()).await.unwrap();
    // Read on, so that the server can write.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (server, client)
}

async fn stopped(mut server: Child) {
    kill(Pid::from_raw(server.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().await.unwrap().code(), Some(0));
}

/// Serves the shard API, for callers with the token, who may look only.
async fn serves_shards<B: Seed>(db: &TestDb<B>) {
    let (server, client) = serving_shards(db, &["--read-only"]).await;
    assert!(client.list(LabelSelector::default()).await.is_err(), "without the token");
    let client = client.header("authorization", "Bearer 0123456789abcdef").unwrap();
    assert_eq!(client.list(LabelSelector::default()).await.unwrap().len(), 256);
    let refused = client.unassign(["007".to_owned()], false, false).await.unwrap_err();
    assert!(refused.to_string().contains("--read-only"), "{refused}");
    stopped(server).await;
}

/// Answers each Stat, and remembers the credential and the name that came with it.
struct Holder<A> {
    shards: A,
    seen: Arc<Mutex<Vec<[Option<String>; 2]>>>,
}

#[tonic::async_trait]
impl<A: ShardApi> ShardApi for Holder<A> {
    fn inner(&self) -> &dyn ShardApi {
        &self.shards
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<StatResponse, Status> {
        let of = |name| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().push([of("authorization"), of("eventbox-who")]);
        Ok(StatResponse::default())
    }
}

/// Sends a Stat on to the holder of the shard, at an address that the database names, without the token.
async fn sends_stats_on<B: Seed>(db: &TestDb<B>) {
    let seen = Arc::default();
    let holder = Holder { shards: Shards::new(db.pool.clone()), seen: Arc::clone(&seen) };
    let holder = ShardService::new(holder).serve("127.0.0.1:0").await.unwrap();
    let worker = Uuid::new_v4();
    join(db, worker, "host-1").await;
    hold(db, worker).await;
    db.run(format_args!("UPDATE eventbox_member SET endpoint = 'http://{}'", holder.local_addr())).await;
    let (server, client) = serving_shards(db, &[]).await;
    let client = client.header("authorization", "Bearer 0123456789abcdef").unwrap().acting("ana", "a test").unwrap();
    client.stat("003", BTreeMap::new()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [[None, Some("ana".to_owned())]]);
    stopped(server).await;
}

on_every_engine! {
    async fn the_shard_api_is_served_until_a_signal(db) {
        serves_shards(db).await;
    }

    async fn the_token_is_not_sent_on(db) {
        sends_stats_on(db).await;
    }

    async fn the_page_and_the_metrics_are_served_until_a_signal(db) {
        serves(db).await;
    }

    async fn an_open_address_needs_a_token(db) {
        let refused = on(db, &["serve", "--listen", "0.0.0.0:0"]).await;
        assert!(refused.refused().contains("give --token or --trusted-header"), "{refused:?}");
        let weak = on(db, &["serve", "--listen", "0.0.0.0:0", "--token", "short"]).await;
        assert!(weak.refused().contains("at least 16"), "{weak:?}");
        let shards = on(db, &["serve", "--listen", "127.0.0.1:0", "--shard-api", "0.0.0.0:0"]).await;
        assert!(shards.refused().contains("everybody could change shards: give --token"), "{shards:?}");
    }
}
