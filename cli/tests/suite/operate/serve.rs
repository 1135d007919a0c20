//! `eventbox serve`, as a real server.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

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

on_every_engine! {
    async fn the_page_and_the_metrics_are_served_until_a_signal(db) {
        serves(db).await;
    }

    async fn an_open_address_needs_a_token(db) {
        let refused = on(db, &["serve", "--listen", "0.0.0.0:0"]).await;
        assert!(refused.refused().contains("give --token or --trusted-header"), "{refused:?}");
        let weak = on(db, &["serve", "--listen", "0.0.0.0:0", "--token", "short"]).await;
        assert!(weak.refused().contains("at least 16"), "{weak:?}");
    }
}
