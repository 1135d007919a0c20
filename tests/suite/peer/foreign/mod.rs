//! Foreign peers: programs of others that speak the protocols. `cargo xtask peers` says which of them are missing; a
//! plain run of the tests leaves those out.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use eventbox::peer::connectors::http::{HttpServer, HttpServerConfig};
use eventbox::peer::connectors::{LocalAddress, MessageKind, TcpServer, TcpServerConfig, WsServer, WsServerConfig};
use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{Connector, Mapping, Peer, Peers, StreamSignal};
use eventbox::{Event, Recipient};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{STOP, box_of, texts};
use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine};

/// Environment variable that makes a missing program a failure. `cargo xtask peers` sets it.
const REQUIRED: &str = "EVENTBOX_FOREIGN_PEERS";

/// Returns the first of these programs that is on this machine.
#[allow(clippy::print_stderr, reason = "a person sees what was left out")]
fn program(names: &[&'static str]) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&&str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let found = names.iter().find(is_there).copied();
    assert!(found.is_some() || std::env::var_os(REQUIRED).is_none(), "none of {names:?} is installed");
    if found.is_none() {
        eprintln!("left out, because none of {names:?} is installed: see `cargo xtask peers`");
    }
    found
}

/// Runs a peer with one connector, whose events go to `inbox/all`.
async fn serve<B: CellEngine>(
    db: &TestDb<B>,
    connector: impl Connector,
    declare: impl FnOnce(Peer) -> Peer,
) -> Peers<B> {
    let peer = declare(Peer::new("door", connector).mapping(Mapping::to("inbox/all").unwrap()));
    super::run(&db.open(6), peer).await
}

async fn bound(address: &LocalAddress) -> SocketAddr {
    timeout(SOON, address.bound()).await.expect("the server binds").unwrap()
}

/// Returns the stream that starts next.
async fn started(signals: &mut tokio::sync::broadcast::Receiver<StreamSignal>) -> String {
    loop {
        if let StreamSignal::Started { stream, .. } = timeout(SOON, signals.recv()).await.unwrap().unwrap() {
            return stream.to_string();
        }
    }
}

async fn send<B: CellEngine>(db: &TestDb<B>, to: &Recipient, event: Event) {
    B::emit_on(&db.pool, to, event).await.unwrap();
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

on_every_engine! {
    async fn netcat_speaks_lines(db) {
        let Some(netcat) = program(&["nc", "ncat", "socat"]) else { return };
        let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0")).unwrap();
        let address = server.local_address();
        let lines = InterceptorSpec::named("lines").unwrap();
        let peers = serve(db, server, |peer| peer.interceptors([lines])).await;
        let (address, mut signals) = (bound(&address).await, peers.observe());
        let arguments = match netcat {
            "socat" => vec!["-".to_owned(), format!("TCP:{address}")],
            _ => vec![address.ip().to_string(), address.port().to_string()],
        };
        let mut client = Command::new(netcat);
        client.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut client = client.spawn().unwrap();
        let mut write = client.stdin.take().unwrap();
        write.write_all(b"departed\nlanded\n").await.unwrap();
        eventually(SOON, async || texts(&db.pool, "inbox/all").await == ["departed", "landed"]).await;
        let stream = started(&mut signals).await;
        for line in ["cleared", "welcome"] {
            send(db, &box_of("door", &stream), Event::new(line)).await;
        }
        let mut read = BufReader::new(client.stdout.take().unwrap()).lines();
        for line in ["cleared", "welcome"] {
            assert_eq!(timeout(SOON, read.next_line()).await.unwrap().unwrap().as_deref(), Some(line));
        }
        drop(write);
        client.kill().await.unwrap();
        eventually(SOON, async || peers.streams("door") == 0).await;
        assert!(peers.stop(STOP).await.complete);
    }

    /// Ten thousand connections that say nothing cost memory only: one of them that speaks is heard, and all are let
    /// go. The test needs as many open files, so a plain run leaves it out.
    async fn ten_thousand_idle_connections_are_served(db) {
        const COUNT: usize = 10_000;
        let Some(python) = program(&["python3"]).filter(|_| std::env::var_os(REQUIRED).is_some()) else { return };
        let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0")).unwrap();
        let address = server.local_address();
        let lines = InterceptorSpec::named("lines").unwrap();
        let peers = serve(db, server, |peer| peer.interceptors([lines])).await;
        let address = bound(&address).await;
        let mut clients = Command::new(python);
        clients.args(["-c", include_str!("idle_clients.py"), &address.ip().to_string(), &address.port().to_string()]);
        clients.arg(COUNT.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut clients = clients.spawn().unwrap();
        eventually(10 * SOON, async || peers.streams("door") == COUNT).await;
        let mut read = BufReader::new(clients.stdout.take().unwrap()).lines();
        assert_eq!(timeout(SOON, read.next_line()).await.unwrap().unwrap().as_deref(), Some("open"));
        clients.stdin.as_mut().unwrap().write_all(b"awake\n").await.unwrap();
        eventually(SOON, async || texts(&db.pool, "inbox/all").await == ["awake"]).await;
        clients.kill().await.unwrap();
        eventually(10 * SOON, async || peers.streams("door") == 0).await;
        assert!(peers.stop(STOP).await.complete);
    }

    async fn curl_asks_and_gets_its_answer(db) {
        let Some(curl) = program(&["curl"]) else { return };
        let mut config = HttpServerConfig::at("127.0.0.1:0");
        config.lanes = 1;
        let server = HttpServer::new(config).unwrap();
        let address = server.local_address();
        let peers = serve(db, server, |peer| peer).await;
        let url = format!("http://{}/orders", bound(&address).await);
        for (round, protocol) in ["--http1.1", "--http2-prior-knowledge"].into_iter().enumerate() {
            let mut client = Command::new(curl);
            client.args(["-sS", "--max-time", "30", protocol, "--data-binary", "six pencils", &url]);
            let client = client.args(["-w", " %{http_code}"]).kill_on_drop(true);
            let client = tokio::spawn(client.stdout(Stdio::piped()).output());
            let inbox = Recipient::new("inbox", "all").unwrap();
            let requests = async || eventbox::admin::events(&db.pool, &inbox, None, 10).await.unwrap();
            eventually(SOON, async || requests().await.len() == round + 1).await;
            let request = requests().await.pop().unwrap();
            assert_eq!(request.value(), b"six pencils");
            let stream = request.origin().unwrap().streams_of("door").next().unwrap().to_owned();
            send(db, &box_of("door", &stream), Event::new("four left").caused_by(&request)).await;
            let output = timeout(SOON, client).await.expect("curl ends").unwrap().unwrap();
            assert_eq!(said(&output), "four left 200", "{protocol}");
        }
        assert!(peers.stop(STOP).await.complete);
    }

    async fn python_speaks_websocket(db) {
        let Some(python) = program(&["python3"]) else { return };
        let mut config = WsServerConfig::new("127.0.0.1:0").path("/events");
        config.send = MessageKind::Text;
        let server = WsServer::new(config).unwrap();
        let address = server.local_address();
        let peers = serve(db, server, |peer| peer).await;
        let (address, mut signals) = (bound(&address).await, peers.observe());
        let mut client = Command::new(python);
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        client.args(["-c", include_str!("websocket_client.py"), &ip, &port]);
        let client = client.arg("departed").kill_on_drop(true);
        let client = tokio::spawn(client.stdout(Stdio::piped()).output());
        let stream = started(&mut signals).await;
        eventually(SOON, async || texts(&db.pool, "inbox/all").await == ["departed"]).await;
        send(db, &box_of("door", &stream), Event::new("cleared")).await;
        let output = timeout(SOON, client).await.expect("the client ends").unwrap().unwrap();
        assert_eq!(said(&output), "1 cleared\n8 1000\n");
        assert!(peers.stop(STOP).await.complete);
    }
}
