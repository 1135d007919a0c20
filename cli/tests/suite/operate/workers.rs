//! Members and shards.

use std::time::{Duration, SystemTime};

use eventbox::uuid::Uuid;
use serde_json::json;

use super::on;
use crate::support::{TestDb, TestEngine, on_every_engine};

/// Returns an id as SQL writes it.
fn literal<B: TestEngine>(id: Uuid) -> String {
    match B::FOLDER {
        "postgres" => format!("'{id}'::uuid"),
        _ => format!("x'{}'", id.simple()),
    }
}

/// Inserts a member with a heartbeat of now.
async fn join<B: TestEngine>(db: &TestDb<B>, worker: Uuid, address: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let exiting = if B::FOLDER == "postgres" { "false" } else { "0" };
    db.run(format_args!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
         VALUES ({}, '{address}', 256, {exiting}, {now})",
        literal::<B>(worker)
    ))
    .await;
}

/// Gives the first ten shards to a worker.
async fn hold<B: TestEngine>(db: &TestDb<B>, worker: Uuid) {
    let ahead = SystemTime::now() + Duration::from_secs(3_600);
    let ahead = ahead.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    db.run(format_args!(
        "UPDATE eventbox_lease SET holder = {}, generation = 1, expires_at_us = {ahead} WHERE shard < 10",
        literal::<B>(worker)
    ))
    .await;
}

async fn held<B: TestEngine>(db: &TestDb<B>, worker: Uuid) -> i64 {
    db.number(format_args!("SELECT count(*) FROM eventbox_lease WHERE holder = {}", literal::<B>(worker))).await
}

on_every_engine! {
    async fn members_are_listed(db) {
        assert_eq!(on(db, &["members"]).await.done(), "No worker process is a member.");
        let worker = Uuid::new_v4();
        join(db, worker, "host-1").await;
        let members = on(db, &["members", "--json"]).await.json();
        assert_eq!((&members[0]["worker"], &members[0]["address"]), (&json!(worker.to_string()), &json!("host-1")));
        assert!(on(db, &["members"]).await.done().contains("host-1"));
    }

    async fn shards_are_listed_moved_and_released(db) {
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        join(db, first, "host-1").await;
        join(db, second, "host-2").await;
        hold(db, first).await;
        let list = on(db, &["shards", "list"]).await;
        assert!(list.done().contains("0-9") && list.stdout.contains("10-255"), "{list:?}");
        assert_eq!(on(db, &["shards", "list", "--json"]).await.json().as_array().unwrap().len(), 256);

        let to = second.to_string();
        on(db, &["shards", "move", "3", &to, "--dry-run"]).await.done();
        assert_eq!(held(db, second).await, 0);
        assert_eq!(on(db, &["shards", "move", "3", &to]).await.done(), format!("Moved shard 3 to {to}."));
        assert_eq!((held(db, first).await, held(db, second).await), (9, 1));

        assert!(on(db, &["shards", "release", "4"]).await.refused().contains("this releases shard 4"));
        assert_eq!(on(db, &["shards", "release", "4", "--yes"]).await.done(), "Released shard 4.");
        let lease = on(db, &["shards", "list", "--json"]).await.json()[4].clone();
        assert_eq!(lease["expires_in_seconds"], json!(null), "{lease}");
    }
}
