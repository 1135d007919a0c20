//! An HTTP handler that emits in its own transaction: the row and the event commit together or not at all.
//!
//! The server listens on a free port, calls itself, and ends. `cargo run --example axum_handler`

#![allow(clippy::print_stdout)]

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use eventbox::{BoxError, Emitted, Event, Outcome, Recipient, Reducer};
use sqlx::SqlitePool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Takes an order. The caller's idempotency key is the name of the event, so a retry is safe.
async fn order(
    State(pool): State<SqlitePool>,
    Path(customer): Path<String>,
    headers: HeaderMap,
    item: String,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.ok_or((StatusCode::BAD_REQUEST, "the header idempotency-key is missing".to_owned()))?;
    let to = Recipient::new("customer", &customer).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    match store(&pool, &to, key, item).await {
        Ok(Emitted::Added) => Ok((StatusCode::CREATED, "ordered".to_owned())),
        Ok(_) => Ok((StatusCode::OK, "ordered before".to_owned())),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

async fn store(pool: &SqlitePool, to: &Recipient, key: &str, item: String) -> Result<Emitted, BoxError> {
    // `begin` starts a write transaction. Dropping it at any point is safe, also when the caller disconnects.
    let mut tx = eventbox::begin(pool).await?;
    let emitted = eventbox::emit(&mut *tx, to, Event::new(item.clone()).named(key)).await?.emitted();
    if emitted == Emitted::Added {
        let insert = sqlx::query("INSERT INTO orders (customer, item) VALUES ($1, $2)");
        insert.bind(to.key()).bind(item).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(emitted)
}

/// Keeps the list of a customer's orders.
struct Customer;

impl Reducer for Customer {
    type State = Vec<String>;

    fn reduce(
        &self,
        _to: &Recipient,
        events: &[Event],
        mut items: Vec<String>,
    ) -> Result<Outcome<Vec<String>>, BoxError> {
        for event in events {
            items.push(String::from_utf8(event.value().to_vec())?);
        }
        Ok(Outcome::to(items).consuming(events))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let pool = SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("shop.sqlite3"))).await?;
    eventbox::migrate(&pool).await?;
    sqlx::query("CREATE TABLE orders (customer TEXT NOT NULL, item TEXT NOT NULL)").execute(&pool).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/customers/{customer}/orders", post(order)).with_state(pool.clone());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    for wanted in ["201 Created", "200 OK"] {
        let answer = call(address, "/customers/ada/orders", "click-1", "a pencil").await?;
        let status = answer.lines().next().unwrap_or_default();
        println!("POST /customers/ada/orders: {status}");
        assert!(status.contains(wanted), "{answer}");
    }
    server.abort();

    let ada = Recipient::new("customer", "ada")?;
    let turn = eventbox::reduce_batch(&pool, &ada, &Customer, 100.try_into()?).await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&pool).await?;
    println!("{rows} order stored, {} event consumed", turn.consumed);
    assert_eq!((rows, turn.consumed), (1, 1));
    pool.close().await;
    println!("done");
    Ok(())
}

/// Sends one request without an HTTP client library.
async fn call(address: std::net::SocketAddr, path: &str, key: &str, body: &str) -> Result<String, BoxError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nidempotency-key: {key}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
