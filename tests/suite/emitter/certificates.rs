//! Connections: certificates that change while requests are in flight, pings that servers accept, and dead connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::chip::{GrpcConfig, GrpcTransport, KeepAlive, RECONNECT_AFTER, Tls, Transport};
use eventbox::ingress::{self, Faults, Ingress};
use eventbox::proto::chipingress::pb::CloudEventBatch;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Fake, GrpcServer, event};
use crate::support::log::Log;
use crate::support::{SOON, eventually};

const OFTEN: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(5);

/// A certificate authority for `localhost`.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(ca, key) }
    }

    fn certify(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The certificate files of a server and its clients.
struct Files(tempfile::TempDir);

impl Files {
    fn of(authority: &Authority) -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        files.become_of(authority);
        files
    }

    fn become_of(&self, authority: &Authority) {
        let (chain, key) = authority.certify();
        self.write("chain.pem", &chain);
        self.write("key.pem", &key);
        self.write("ca.pem", &authority.pem);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn server(&self) -> ingress::Tls {
        let tls = ingress::Tls::files(self.path("chain.pem"), self.path("key.pem"));
        tls.client_ca_file(self.path("ca.pem")).reload_every(OFTEN)
    }

    fn client(&self) -> Tls {
        let tls = Tls::ca_file(self.path("ca.pem"));
        tls.client_certificate_files(self.path("chain.pem"), self.path("key.pem")).reload_every(OFTEN)
    }
}

fn client(port: u16, tls: Tls) -> GrpcTransport {
    GrpcTransport::new(&GrpcConfig::new(format!("localhost:{port}")).tls(tls)).unwrap()
}

/// Returns a client with a new certificate of this authority, which it alone trusts.
fn fresh(port: u16, authority: &Authority) -> GrpcTransport {
    let (chain, key) = authority.certify();
    client(port, Tls::ca(authority.pem.clone()).client_certificate(chain, key))
}

#[tokio::test]
async fn certificates_are_read_again_and_requests_in_flight_are_answered() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::of(&old);
    // The server stores the event before the latency, so the test sees that the request has arrived.
    let slow = Faults { answer_latency: Duration::from_millis(700), ..Faults::none() };
    let server = Ingress::builder().tls(files.server()).faults(slow).serve("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().port();
    let client = client(port, files.client());
    client.ping(LIMIT).await.unwrap();
    fresh(port, &new).ping(LIMIT).await.unwrap_err();

    let batch = CloudEventBatch { events: vec![event("in flight").into_wire()], options: None };
    let in_flight = {
        let client = client.clone();
        async move { client.publish_batch(&batch, LIMIT).await }
    };
    let in_flight = tokio::spawn(in_flight);
    eventually(SOON, async || server.log().counts().await.unwrap().kept == 1).await;
    files.become_of(&new);
    eventually(SOON, async || fresh(port, &new).ping(LIMIT).await.is_ok()).await;
    let answer = in_flight.await.unwrap().unwrap();
    assert!(answer.results[0].error.is_none(), "{answer:?}");
    fresh(port, &old).ping(LIMIT).await.unwrap_err();
    eventually(SOON, async || client.ping(LIMIT).await.is_ok()).await;
}

#[tokio::test]
async fn unusable_files_leave_the_old_certificates_in_use() {
    let (log, _guard) = Log::listen();
    let authority = Authority::new();
    let files = Files::of(&authority);
    let server = Ingress::builder().tls(files.server()).serve("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().port();
    let client = client(port, files.client());
    client.ping(LIMIT).await.unwrap();
    let (chain, other_key) = (std::fs::read_to_string(files.path("chain.pem")).unwrap(), authority.certify().1);
    let key = std::fs::read_to_string(files.path("key.pem")).unwrap();
    let wrong = [("chain.pem", &chain[..chain.len() / 2]), ("chain.pem", ""), ("key.pem", other_key.as_str())];
    for (number, (name, text)) in wrong.into_iter().enumerate() {
        files.write(name, text);
        let warnings = || log.lines(&["the changed certificates cannot be used"]).len();
        eventually(SOON, async || {
            client.ping(LIMIT).await.unwrap();
            warnings() >= 2 * (number + 1)
        })
        .await;
        fresh(port, &authority).ping(LIMIT).await.unwrap();
        files.write("chain.pem", &chain);
        files.write("key.pem", &key);
    }
    std::fs::remove_file(files.path("ca.pem")).unwrap();
    eventually(SOON, async || {
        client.ping(LIMIT).await.unwrap();
        !log.lines(&["cannot be read"]).is_empty()
    })
    .await;
    assert!(
        GrpcTransport::new(&GrpcConfig::new("localhost:1").tls(files.client())).is_err(),
        "the first read must succeed"
    );
}

/// A proxy that counts the pings of clients and can make its open connections dead.
struct Wire {
    address: SocketAddr,
    pings: Arc<AtomicUsize>,
    dead: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

impl Wire {
    async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Wire { address, pings: Arc::default(), dead: Arc::default(), accepted: Arc::default() };
        let (pings, dead, accepted) = (Arc::clone(&wire.pings), Arc::clone(&wire.dead), Arc::clone(&wire.accepted));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(upstream).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let alive = |dead: &Arc<AtomicUsize>| {
                    let dead = Arc::clone(dead);
                    move || dead.load(Ordering::SeqCst) <= number
                };
                let frames = Frames { pings: Arc::clone(&pings), seen: Vec::new(), preface: false };
                tokio::spawn(forward(from_client, to_server, alive(&dead), Some(frames)));
                tokio::spawn(forward(from_server, to_client, alive(&dead), None));
            }
        });
        wire
    }

    /// Stops all traffic on the open connections, without closing them.
    fn cut(&self) {
        self.dead.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    alive: impl Fn() -> bool,
    mut frames: Option<Frames>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(frames) = &mut frames {
            frames.read(&buffer[..count]);
        }
        if !alive() {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Reader of the HTTP/2 frames that a client sends.
struct Frames {
    pings: Arc<AtomicUsize>,
    seen: Vec<u8>,
    preface: bool,
}

impl Frames {
    fn read(&mut self, bytes: &[u8]) {
        const PREFACE: usize = 24;
        const PING: u8 = 6;
        const ACK: u8 = 1;
        self.seen.extend_from_slice(bytes);
        if !self.preface && self.seen.len() >= PREFACE {
            self.seen.drain(..PREFACE);
            self.preface = true;
        }
        while self.preface && self.seen.len() >= 9 {
            let length = self.seen[..3].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
            if self.seen.len() < 9 + length {
                return;
            }
            if self.seen[3] == PING && self.seen[4] & ACK == 0 {
                self.pings.fetch_add(1, Ordering::SeqCst);
            }
            self.seen.drain(..9 + length);
        }
    }
}

/// Moves the clock by minutes, and lets the tasks that are due send.
async fn pass(minutes: u64) {
    for _ in 0..minutes {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_pinged_only_when_configured() {
    let server = GrpcServer::start(Fake::ok()).await;
    let wire = Wire::to(server.address).await;
    let often = KeepAlive::default().with_interval(Some(Duration::from_secs(10))).with_while_idle(true);
    for (keep_alive, pinged) in [(KeepAlive::default(), false), (often, true)] {
        let config = GrpcConfig::new(wire.address.to_string()).keep_alive(keep_alive);
        let transport = GrpcTransport::new(&config).unwrap();
        transport.ping(LIMIT).await.unwrap();
        wire.pings.store(0, Ordering::SeqCst);
        pass(60).await;
        assert_eq!(wire.pings.load(Ordering::SeqCst) > 0, pinged, "{keep_alive:?}");
    }
    server.stop().await;
}

/// The default keep-alive pings at most once in five minutes, and never on an idle connection.
#[test]
fn the_default_keep_alive_is_one_that_grpc_servers_accept() {
    let KeepAlive { interval, while_idle, .. } = KeepAlive::default();
    assert!(interval.is_none_or(|interval| interval > Duration::from_secs(300)) && !while_idle);
}

#[tokio::test]
async fn a_dead_connection_is_replaced_after_requests_without_a_response() {
    let server = GrpcServer::start(Fake::ok()).await;
    let wire = Wire::to(server.address).await;
    let transport = GrpcTransport::new(&GrpcConfig::new(wire.address.to_string())).unwrap();
    transport.ping(LIMIT).await.unwrap();
    wire.cut();
    for _ in 0..RECONNECT_AFTER {
        transport.ping(Duration::from_millis(100)).await.unwrap_err();
    }
    transport.ping(LIMIT).await.unwrap();
    assert_eq!(wire.accepted.load(Ordering::SeqCst), 2);
    // A server that returns errors is alive, so the client keeps the connection.
    server.fake.fail_unary(tonic::Code::DeadlineExceeded);
    for _ in 0..5 {
        transport.publish(&event("x").into_wire(), LIMIT).await.unwrap_err();
    }
    transport.ping(LIMIT).await.unwrap();
    assert_eq!(wire.accepted.load(Ordering::SeqCst), 2);
    server.stop().await;
}
