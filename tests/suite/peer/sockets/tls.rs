//! Tests of TLS: who gets in, and what is said to those who speak something else.

use std::path::PathBuf;
use std::sync::Arc;

use eventbox::peer::connectors::{
    TcpClient, TcpClientConfig, TcpServer, TcpServerConfig, TlsClientConfig, TlsServerConfig, WsClient, WsClientConfig,
    WsServer, WsServerConfig,
};
use eventbox::peer::{EndReason, Mapping, Peer, Reconnect};
use eventbox::{Event, Recipient, admin};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use sqlx::Sqlite;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Site, bound, connect, expect, expect_end, lines, start, timeouts};
use crate::support::{SOON, TestDb, eventually, with_database};

/// A certificate for `localhost` and 127.0.0.1, in files.
struct Certificate {
    _directory: TempDir,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        std::fs::write(&chain, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        Certificate { _directory: directory, chain, key }
    }

    fn of_server(&self) -> TlsServerConfig {
        TlsServerConfig::new(&self.chain, &self.key)
    }

    fn trusted(&self) -> TlsClientConfig {
        TlsClientConfig::default().ca_file(&self.chain)
    }

    /// A foreign client.
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.chain).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        TlsConnector::from(Arc::new(config.with_no_client_auth()))
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn tls_server(certificate: &Certificate, handshake_timeout_ms: u64) -> TcpServer {
    let timeouts = timeouts(|timeouts| timeouts.handshake_timeout_ms = handshake_timeout_ms);
    TcpServer::new(TcpServerConfig::new("127.0.0.1:0").tls(certificate.of_server()).timeouts(timeouts)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_server_speaks_with_tls_clients_and_turns_others_away() {
    with_database("a_tls_server_speaks_with", async |db: &TestDb<Sqlite>| {
        let certificate = Certificate::new();
        let server = tls_server(&certificate, 1_000);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let at = bound(&address).await;

        let mut plain = connect(at).await;
        plain.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
        expect_end(&mut plain).await;
        let mut silent = connect(at).await;
        expect_end(&mut silent).await;

        let mut client = certificate.connector().connect(name(), connect(at).await).await.unwrap();
        let (stream, _) = site.started().await;
        client.write_all(b"secret\n").await.unwrap();
        assert_eq!(site.inbox(1).await, ["secret"], "those who were turned away left no event");
        site.send(&stream, "answer").await;
        expect(&mut client, b"answer\n").await;
        let (mut reader, mut writer) = tokio::io::split(client);
        let goodbye = tokio::spawn(async move {
            let mut rest = Vec::new();
            timeout(SOON, reader.read_to_end(&mut rest)).await.unwrap()
        });
        site.stop().await;
        goodbye.await.unwrap().expect("the server says the goodbye of TLS");
        let _ = writer.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_server_tells_tls_clients_from_others() {
    with_database("a_plain_server_tells_tls", async |db: &TestDb<Sqlite>| {
        let server = TcpServer::new(TcpServerConfig::new("127.0.0.1:0")).unwrap();
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let at = bound(&address).await;
        let refused = certificate_less(at).await;
        assert!(refused.is_err(), "there is no TLS");
        let reason = site.ended().await;
        assert!(matches!(&reason, EndReason::Framing(text) if text.contains("speaks TLS")), "{reason}");
        let mut client = connect(at).await;
        site.started().await;
        client.write_all(b"plain\n").await.unwrap();
        assert_eq!(site.inbox(1).await, ["plain"]);
        site.stop().await;
    })
    .await;
}

async fn certificate_less(at: std::net::SocketAddr) -> std::io::Result<()> {
    Certificate::new().connector().connect(name(), TcpStream::connect(at).await?).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_trusts_only_its_authority_and_says_what_the_other_side_speaks() {
    with_database("a_client_trusts_only", async |db: &TestDb<Sqlite>| {
        let certificate = Certificate::new();
        let server = tls_server(&certificate, 60_000);
        let address = server.local_address();
        let site = Site::start(&db.pool, lines(server)).await;
        let at = bound(&address).await;
        let problem = async |config: TcpClientConfig| {
            let client = lines(TcpClient::new(config).unwrap()).reconnect(Reconnect::never());
            let peers = start(&db.pool, client).await;
            let ready = peers.ready(SOON).await;
            peers.stop(SOON).await;
            ready.err().map(|error| error.to_string())
        };
        let to = |at: std::net::SocketAddr| TcpClientConfig::new(at.to_string());
        assert_eq!(problem(to(at).tls(certificate.trusted())).await, None);
        let stranger = problem(to(at).tls(Certificate::new().trusted())).await.unwrap();
        assert!(stranger.contains("speak TLS with") && stranger.contains("handshake failed"), "{stranger}");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_all(b"220 welcome, I speak lines\r\n").await.unwrap();
            expect_end(&mut client).await;
        });
        let spoken = problem(to(plain).tls(certificate.trusted())).await.unwrap();
        assert!(spoken.contains("does not speak TLS") && spoken.contains(&plain.to_string()), "{spoken}");
        answering.await.unwrap();
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_goes_through_tls() {
    with_database("websocket_goes_through_tls", async |db: &TestDb<Sqlite>| {
        let certificate = Certificate::new();
        let server = WsServer::new(WsServerConfig::new("127.0.0.1:0").tls(certificate.of_server())).unwrap();
        let address = server.local_address();
        let mut site = Site::start(&db.pool, super::peer(server)).await;
        let url = format!("wss://{}/", bound(&address).await);
        let client = WsClient::new(WsClientConfig::new(url).tls(certificate.trusted())).unwrap();
        let client = Peer::new("client", client).mapping(Mapping::to("answers/all").unwrap());
        let clients = start(&db.pool, client).await;
        let (stream, _) = site.started().await;
        let (main, answers) = (Recipient::new("peer.client", "main"), Recipient::new("answers", "all").unwrap());
        eventbox::emit(&db.pool, &main.unwrap(), Event::new("question")).await.unwrap();
        assert_eq!(site.inbox(1).await, ["question"]);
        site.send(&stream, "answer").await;
        let answered = async || admin::events(&db.pool, &answers, None, 10).await.unwrap().len() == 1;
        eventually(SOON, answered).await;
        assert!(clients.stop(SOON).await.complete);
        assert_eq!(site.ended().await, EndReason::Closed);
        site.stop().await;
    })
    .await;
}

#[test]
fn wrong_files_are_refused_before_the_start() {
    let certificate = Certificate::new();
    let problem = |tls| TcpServer::new(TcpServerConfig::new("127.0.0.1:0").tls(tls)).unwrap_err().to_string();
    let missing = problem(TlsServerConfig::new("/nowhere/chain.pem", &certificate.key));
    assert!(missing.contains("/nowhere/chain.pem cannot be read"), "{missing}");
    let swapped = problem(TlsServerConfig::new(&certificate.key, &certificate.chain));
    assert!(swapped.contains("holds no whole PEM certificate"), "{swapped}");
    let strange = problem(TlsServerConfig::new(&certificate.chain, Certificate::new().key));
    assert!(strange.contains("cannot be used") || strange.contains("cannot be read"), "{strange}");
}
