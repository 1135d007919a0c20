//! From the edge to the hub: offline for a while, and then everything exactly once.

use eventbox::Event;
use eventbox::peer::Peer;
use eventbox::peer::connectors::{Eventbox, EventboxConfig};

use super::{STOP, box_of, run, texts};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually, on_every_engine};

fn peer(hub: &str) -> Peer {
    let config = EventboxConfig::new(hub, "truck-17", "truck/{edge}".parse().unwrap());
    Peer::new("hub", Eventbox::new(config).unwrap())
}

async fn hub<B: TestEngine>() -> TestDb<B> {
    let hub = TestDb::<B>::empty("hub").await;
    eventbox::migrate(&hub.pool).await.unwrap();
    hub
}

/// Delivers what is at the edge, to the end.
async fn deliver<B: TestEngine>(edge: &TestDb<B>, hub: &str) {
    let out = box_of("hub", "main");
    let peers = run(&edge.pool, peer(hub)).await;
    eventually(SOON, async || texts(&edge.pool, out.as_str()).await.is_empty()).await;
    peers.stop(STOP).await;
}

async fn emit<B: CellEngine>(edge: &TestDb<B>, values: &[&str]) {
    let out = box_of("hub", "main");
    for value in values {
        B::emit_on(&edge.pool, &out, Event::new((*value).to_owned())).await.unwrap();
    }
}

on_every_engine! {
    /// The edge dies after the hub has committed, stays away until the hub has forgotten the names, and sends again.
    async fn a_re_send_after_weeks_arrives_once(db) {
        let hub = hub::<Engine>().await;
        emit(db, &["1", "2", "3"]).await;
        db.run("CREATE TABLE copy AS SELECT * FROM eventbox_event").await;
        deliver(db, &hub.url()).await;
        assert_eq!(texts(&hub.pool, "truck/truck-17").await, ["1", "2", "3"]);

        db.run("INSERT INTO eventbox_event SELECT * FROM copy").await;
        emit(db, &["4"]).await;
        hub.run("DELETE FROM eventbox_tombstone").await;
        deliver(db, &hub.url()).await;
        assert_eq!(texts(&hub.pool, "truck/truck-17").await, ["1", "2", "3", "4"]);

        // The hub remembers only what the edge may still have.
        emit(db, &["5"]).await;
        deliver(db, &hub.url()).await;
        let remembered = hub.texts("SELECT position FROM eventbox_checkpoint").await;
        assert_eq!(remembered[0].len(), "ids ".len() + 32, "{remembered:?}");
        assert_eq!(texts(&hub.pool, "truck/truck-17").await.len(), 5);
        hub.remove().await;
    }

    async fn an_edge_keeps_everything_while_the_hub_is_away(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sqlite3");
        let out = box_of("hub", "main");
        let url = path.to_str().unwrap().to_owned();
        let peers = crate::peer::peers(db).peer(peer(&url)).start().await.unwrap();
        emit(db, &["1", "2"]).await;
        eventually(SOON, async || !peers.health().problems.is_empty()).await;
        assert_eq!(texts(&db.pool, out.as_str()).await, ["1", "2"]);
        let hub = eventbox::pool_options::<sqlx::Sqlite>().max_connections(2);
        let hub = hub.connect_with(eventbox::sqlite_options(&path)).await.unwrap();
        eventbox::migrate(&hub).await.unwrap();
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        assert_eq!(texts(&hub, "truck/truck-17").await, ["1", "2"]);
        peers.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sqlite_file_at_the_edge_delivers_to_postgres() {
    crate::support::with_database("edge_to_postgres", async |edge: &TestDb<sqlx::Sqlite>| {
        let hub = hub::<sqlx::Postgres>().await;
        emit(edge, &["1", "2", "3"]).await;
        deliver(edge, &hub.url()).await;
        assert_eq!(texts(&hub.pool, "truck/truck-17").await, ["1", "2", "3"]);
        hub.remove().await;
    })
    .await;
}
