//! A truck that is offline most of the time, and the fleet's database that gets each of its reports exactly once.
//!
//! `cargo run --example edge_to_hub --features peer`

#![allow(clippy::print_stdout)]

use std::time::Duration;

use eventbox::peer::connectors::{Eventbox, EventboxConfig};
use eventbox::peer::{Peer, Peers};
use eventbox::{BoxError, Event, Recipient};
use sqlx::SqlitePool;

/// How long the example waits for the delivery.
const PATIENCE: Duration = Duration::from_secs(20);

async fn open(path: &std::path::Path) -> Result<SqlitePool, BoxError> {
    let pool = eventbox::pool_options::<sqlx::Sqlite>().max_connections(4);
    let pool = pool.connect_with(eventbox::sqlite_options(path)).await?;
    eventbox::migrate(&pool).await?;
    Ok(pool)
}

/// The peer on the truck: what is in `peer.fleet/main` goes to the hub, to the recipient that the value names.
fn fleet(hub: &str) -> Result<Peer, BoxError> {
    let config = EventboxConfig::new(hub, "truck-17", "order/{/order}".parse()?);
    Ok(Peer::new("fleet", Eventbox::new(config)?))
}

async fn waiting(pool: &SqlitePool, at: &Recipient) -> Result<Vec<Event>, BoxError> {
    Ok(eventbox::admin::events(pool, at, None, 100).await?)
}

/// Runs the peer until the truck has delivered everything.
async fn drive_through_coverage(truck: &SqlitePool, hub: &str, out: &Recipient) -> Result<(), BoxError> {
    let peers = Peers::builder(truck.clone()).peer(fleet(hub)?).start().await?;
    peers.ready(PATIENCE).await?;
    tokio::time::timeout(PATIENCE, async {
        while !waiting(truck, out).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, BoxError>(())
    })
    .await??;
    peers.stop(PATIENCE).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let truck = open(&directory.path().join("truck.sqlite3")).await?;
    // A hub of many trucks is a Postgres server: postgres://fleet@hub/fleet
    let hub_path = directory.path().join("hub.sqlite3");
    let hub = open(&hub_path).await?;
    let hub_url = hub_path.to_str().ok_or("a path in UTF-8")?;

    // A week without a network. The reports wait in the file of the truck.
    let out = Recipient::new("peer.fleet", "main")?;
    for (order, report) in [(7, "picked up"), (8, "picked up"), (7, "delivered")] {
        let report = serde_json::json!({ "order": order, "report": report });
        eventbox::emit(&truck, &out, Event::from_json(&report)?).await?;
    }
    println!("offline, {} reports wait", waiting(&truck, &out).await?.len());

    drive_through_coverage(&truck, hub_url, &out).await?;
    for order in ["7", "8"] {
        let order = Recipient::new("order", order)?;
        for event in waiting(&hub, &order).await? {
            let report: serde_json::Value = event.json()?;
            println!("{order}: {}", report.get("report").and_then(|report| report.as_str()).unwrap_or_default());
        }
    }

    // Nothing is left, so nothing comes twice.
    drive_through_coverage(&truck, hub_url, &out).await?;
    assert_eq!(waiting(&hub, &Recipient::new("order", "7")?).await?.len(), 2);
    println!("done");
    Ok(())
}
