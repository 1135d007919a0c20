//! TLS to Postgres: the URL decides, and a connection without the demanded encryption or trust is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{Emitted, Event, Recipient, emit, pool_options, postgres_options};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use sqlx::{PgPool, Postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::{TestDb, with_database};

/// First message of a client, which requests TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A proxy that offers or denies TLS to its clients, and forwards their messages to a database.
struct Front {
    at: SocketAddr,
    encrypted: Arc<AtomicUsize>,
}

impl Front {
    async fn start(database: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (at, encrypted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&encrypted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, database, tls.clone(), Arc::clone(&count)));
            }
        });
        Front { at, encrypted }
    }
}

async fn serve(mut client: TcpStream, database: SocketAddr, tls: Option<TlsAcceptor>, encrypted: Arc<AtomicUsize>) {
    let mut first = [0; 8];
    if client.read_exact(&mut first).await.is_err() {
        return;
    }
    assert_eq!(first, SSL_REQUEST, "the client requests TLS first");
    let mut server = TcpStream::connect(database).await.unwrap();
    let Some(tls) = tls else {
        client.write_all(b"N").await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    };
    client.write_all(b"S").await.unwrap();
    if let Ok(mut client) = tls.accept(client).await {
        encrypted.fetch_add(1, Ordering::Relaxed);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Returns a TLS acceptor with a self-signed certificate, and this certificate.
fn certified() -> (TlsAcceptor, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), cert.pem())
}

/// Returns the URL of the test's database at another address, with these parameters.
fn url_of(db: &TestDb<Postgres>, at: SocketAddr, parameters: &str) -> String {
    let options = db.options();
    let (user, database) = (options.get_username(), options.get_database().unwrap());
    let url = db.url();
    let password =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).and_then(|(who, _)| who.split_once(':'));
    let password = password.map(|(_, password)| format!(":{password}")).unwrap_or_default();
    format!("postgres://{user}{password}@{at}/{database}?{parameters}")
}

async fn open(url: &str) -> eventbox::Result<PgPool> {
    let options = postgres_options(url)?;
    Ok(pool_options::<Postgres>().max_connections(2).connect_lazy_with(options))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_url_decides_about_tls() {
    with_database("the_url_decides_about_tls", async |db: &TestDb<Postgres>| {
        let database: SocketAddr = format!("{}:{}", db.options().get_host(), db.options().get_port()).parse().unwrap();
        let (tls, certificate) = certified();
        let directory = tempfile::tempdir().unwrap();
        let (trusted, other) = (directory.path().join("trusted.pem"), directory.path().join("other.pem"));
        std::fs::write(&trusted, certificate).unwrap();
        std::fs::write(&other, certified().1).unwrap();
        let front = Front::start(database, Some(tls)).await;
        let plain = Front::start(database, None).await;
        let (trusted, other) = (trusted.display(), other.display());
        let cases = [
            (front.at, "sslmode=require".to_owned(), true),
            (front.at, format!("sslmode=verify-full&sslrootcert={trusted}"), true),
            (front.at, format!("sslmode=verify-ca&sslrootcert={trusted}"), true),
            (front.at, format!("sslmode=verify-full&sslrootcert={other}"), false),
            (front.at, "sslmode=verify-full".to_owned(), false),
            (plain.at, "sslmode=require".to_owned(), false),
            (plain.at, "sslmode=prefer".to_owned(), true),
        ];
        for (n, (at, parameters, connects)) in cases.into_iter().enumerate() {
            let pool = open(&url_of(db, at, &parameters)).await.unwrap();
            let checked = eventbox::check(&pool).await;
            assert_eq!(checked.is_ok(), connects, "{parameters}: {checked:?}");
            if connects {
                let to = Recipient::new("order", n.to_string()).unwrap();
                assert_eq!(emit(&pool, &to, Event::new("x")).await.unwrap(), Emitted::Added, "{parameters}");
            }
            pool.close().await;
        }
        assert!(front.encrypted.load(Ordering::Relaxed) >= 3, "connections that asked for TLS are encrypted");
    })
    .await;
}

#[test]
fn an_unreadable_url_is_an_error_without_the_secret() {
    for url in ["postgres//x", "postgres://u:secret@h/d?sslmode=sometimes"] {
        let error = postgres_options(url).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("read the URL of a database") && !text.contains("secret"), "{text}");
    }
}
