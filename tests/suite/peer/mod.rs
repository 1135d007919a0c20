//! Peers and their connectors.

mod eventbox;
mod file;
mod ingress;
mod sources;

use std::time::Duration;

use ::eventbox::peer::{Peer, Peers};
use ::eventbox::{Backend, Recipient};
use sqlx::Pool;

/// Longest time of a start and of a stop.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs one peer, and returns when it is connected.
async fn run<B: Backend>(pool: &Pool<B>, peer: Peer) -> Peers<B> {
    let peers = Peers::builder(pool.clone()).peer(peer).start().await.unwrap();
    peers.ready(LIMIT).await.unwrap();
    peers
}

fn to(recipient: &str) -> Recipient {
    recipient.parse().unwrap()
}

/// The eventbox of a stream.
fn box_of(peer: &str, stream: &str) -> Recipient {
    Recipient::new(format!("peer.{peer}"), stream).unwrap()
}

/// Returns the values in an eventbox, as texts.
async fn texts<B: Backend>(pool: &Pool<B>, recipient: &str) -> Vec<String> {
    let events = ::eventbox::pending(pool, &to(recipient), 1_000.try_into().unwrap()).await.unwrap();
    events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect()
}
