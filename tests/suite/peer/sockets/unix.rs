//! Tests of Unix sockets.

use eventbox::peer::EndReason;
use eventbox::peer::connectors::{UnixClient, UnixClientConfig, UnixServer, UnixServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Site, expect, expect_end, lines, main};
use crate::support::{SOON, on_every_engine};

on_every_engine! {
    /// A server on a path serves as one on a port does, and takes its file away at the stop.
    async fn a_unix_server_serves_lines(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut site = Site::start(&db.pool, lines(UnixServer::new(UnixServerConfig::new(&path)).unwrap())).await;
        site.peers.ready(SOON).await.unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let (stream, facts) = site.started().await;
        assert!(facts.get("uid").is_some());
        client.write_all(b"hello\n").await.unwrap();
        assert_eq!(site.inbox(1).await, ["hello"]);
        site.send(&stream, "hello yourself").await;
        expect(&mut client, b"hello yourself\n").await;
        site.stop().await;
        expect_end(&mut client).await;
        assert!(!path.exists());
    }

    /// A client on a path connects again after a loss.
    async fn a_unix_client_connects_again(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut site = Site::start(&db.pool, lines(UnixClient::new(UnixClientConfig::new(&path)).unwrap())).await;
        let (first, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        drop(first);
        assert_eq!(site.ended().await, EndReason::Closed);
        site.send(&main(), "again").await;
        let (mut second, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        expect(&mut second, b"again\n").await;
        site.stop().await;
    }
}
