//! An HTTP request that waits for the answer of an entity. The request is an event, and so is the answer: the entity
//! finds the way back in the origin of the request.
//!
//! The server listens on a free port, calls itself, and ends.
//! `cargo run --example http_request_and_answer --features peer`

#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::time::Duration;

use eventbox::peer::connectors::http::{Format, HttpServer, HttpServerConfig, Route};
use eventbox::peer::{Mapping, Peer, Peers, answer_to};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the example waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The body of a request.
#[derive(Deserialize)]
struct Order {
    item: String,
    count: u64,
}

/// The stock of an item, of which there are ten in the beginning.
struct Stock;

impl Reducer for Stock {
    type State = u64; // how many were sold

    fn reduce(&self, _item: &Recipient, events: &[Event], mut sold: u64) -> Result<Outcome<u64>, BoxError> {
        let mut answers = Vec::new();
        for event in events {
            let (status, text) = match event.json::<Order>() {
                Ok(order) if sold + order.count <= 10 => {
                    sold += order.count;
                    (200, format!("{} for you, {} left", order.item, 10 - sold))
                }
                Ok(order) => (409, format!("only {} left of {}", 10 - sold, order.item)),
                Err(error) => (422, error.to_string()),
            };
            let answer = json!({"status": status, "body": {"answer": text}}).to_string();
            // The answer has the origin of its own request, and not that of all requests of this turn.
            let answer = Event::new(answer).caused_by(event);
            answers.extend(answer_to(event).into_iter().map(|stream| (stream, answer.clone())));
        }
        Ok(Outcome::to(sold).consuming(events).emitting(answers))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = eventbox::pool_options::<sqlx::Sqlite>().max_connections(6);
    let pool = pool.connect_with(eventbox::sqlite_options(directory.path().join("shop.sqlite3"))).await?;
    eventbox::migrate(&pool).await?;

    let mut config = HttpServerConfig::at("127.0.0.1:0");
    config.routes = vec![Route::new("/orders", ["POST"])];
    config.response_format = Format::Envelope;
    let server = HttpServer::new(config)?;
    let address = server.local_address();
    let shop = Peer::new("shop", server).mapping(Mapping::to("stock/{/item}")?);
    let stocks = Runtime::builder(pool.clone()).reducer("stock", Stock).start().await?;
    let peers = Peers::builder(pool).peer(shop).start().await?;
    peers.ready(PATIENCE).await?;
    let address = address.get().ok_or("the server listens")?;

    let order = |item: &str, count: u64| json!({"item": item, "count": count}).to_string();
    for (key, body, wanted) in [
        ("click-1", order("pencil", 6), "200 OK: {\"answer\":\"pencil for you, 4 left\"}"),
        // The client did not get the answer, and sends its request again: the stock does not change.
        ("click-1", order("pencil", 6), "200 OK: {\"answer\":\"pencil for you, 4 left\"}"),
        ("click-2", order("pencil", 6), "409 Conflict: {\"answer\":\"only 4 left of pencil\"}"),
        ("click-3", order("paper", 1), "200 OK: {\"answer\":\"paper for you, 9 left\"}"),
    ] {
        let answer = tokio::time::timeout(PATIENCE, call(address, key, &body)).await??;
        println!("POST /orders {key}: {answer}");
        assert_eq!(answer, wanted);
    }
    let unreadable = call(address, "click-4", "six pencils").await?;
    println!("POST /orders click-4: {}", unreadable.split(": ").next().unwrap_or_default());

    peers.stop(PATIENCE).await;
    stocks.stop(PATIENCE).await;
    println!("done");
    Ok(())
}

/// Sends one request without an HTTP client library. Returns the status and the body.
async fn call(address: SocketAddr, key: &str, body: &str) -> Result<String, BoxError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: {address}\r\nidempotency-key: {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("a response has a head")?;
    let status = head.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ");
    Ok(format!("{status}: {body}"))
}
