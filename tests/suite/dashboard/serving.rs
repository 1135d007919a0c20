//! The server of its own: where it listens, how it stops.

use std::net::SocketAddr;
use std::time::Duration;

use eventbox::dashboard::{DashboardError, DashboardOptions, serve, serve_on};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::on_every_engine;

/// Sends a request and reads the whole answer.
async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

on_every_engine! {
    async fn the_dashboard_is_served(db) {
        let server = serve(db.pool.clone(), DashboardOptions::default(), "127.0.0.1:0").await.unwrap();
        let page = ask(server.local_addr(), "/").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("<h1>Overview</h1>"), "{page}");
        assert!(server.stop(Duration::from_secs(20)).await.complete);
        assert!(TcpStream::connect(server.local_addr()).await.is_err());
    }

    /// A page that listens does not keep the server from its end.
    async fn a_stop_ends_live_updates(db) {
        let server = serve(db.pool.clone(), DashboardOptions::default(), "127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        let request = format!("GET /live HTTP/1.1\r\nhost: {}\r\n\r\n", server.local_addr());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        assert!(server.stop(Duration::from_secs(20)).await.complete);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    }

    async fn an_open_address_needs_a_token_or_a_proxy(db) {
        let open = || DashboardOptions::default();
        for address in ["0.0.0.0:0", "[::ffff:0.0.0.0]:0"] {
            let refused = serve(db.pool.clone(), open(), address).await;
            assert!(matches!(refused, Err(DashboardError::Open { .. })), "{address}");
        }
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let refused = serve_on(db.pool.clone(), open(), listener).await.unwrap_err();
        let advice = refused.to_string();
        assert!(advice.contains("with_token") && advice.contains("127.0.0.1:8137"), "{advice}");
        for guarded in [open().with_token("sixteen bytes at least"), open().with_trusted_header("x-user")] {
            let server = serve(db.pool.clone(), guarded, "0.0.0.0:0").await.unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], server.local_addr().port()));
            assert!(ask(address, "/").await.starts_with("HTTP/1.1 401 "));
            assert!(server.stop(Duration::from_secs(20)).await.complete);
        }
        let weak = serve(db.pool.clone(), open().with_token("short"), "127.0.0.1:0").await;
        assert!(matches!(weak, Err(DashboardError::WeakToken { bytes: 5, .. })));
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = serve(db.pool.clone(), open(), taken.local_addr().unwrap()).await;
        assert!(matches!(taken, Err(DashboardError::Listen { .. })));
    }
}
