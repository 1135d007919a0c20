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
pub(super) async fn join<B: TestEngine>(db: &TestDb<B>, worker: Uuid, address: &str) {
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
pub(super) async fn hold<B: TestEngine>(db: &TestDb<B>, worker: Uuid) {
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
        db.run("UPDATE eventbox_member SET endpoint = 'https://10.0.0.7:8443'").await;
        assert!(on(db, &["members"]).await.done().contains("https://10.0.0.7:8443"));
    }

    async fn checkpoints_of_sources_are_listed(db) {
        assert_eq!(on(db, &["sources"]).await.done(), "No source has a checkpoint.");
        let operator = eventbox::admin::Operator::new(db.pool.clone(), "ana");
        operator.move_checkpoint("flights", "all", Some("17 e3b0c44298fc1c14 1.jsonl")).await.unwrap();
        let listed = on(db, &["sources", "--json"]).await.json();
        assert_eq!(listed[0]["source"], "flights");
        assert_eq!(listed[0]["position"], "17 e3b0c44298fc1c14 1.jsonl");
        assert!(on(db, &["sources"]).await.done().contains("1.jsonl"));
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

        db.run("UPDATE eventbox_member SET shard_limit = 0").await;
        let peer = on(db, &["shards", "move", "5", &to]).await;
        assert!(peer.refused().contains("takes no shards") && peer.stderr.contains("eventbox members"), "{peer:?}");
        assert_eq!((held(db, first).await, held(db, second).await), (8, 1));
    }

    async fn shards_get_specs_and_are_unassigned(db) {
        let worker = Uuid::new_v4();
        join(db, worker, "host-1").await;
        hold(db, worker).await;
        let apply = ["shards", "apply", "7-8", "--label", "team=ramp", "--zone", "eu-1", "--disable"];
        let dry = on(db, &[&apply[..], &["--dry-run"]].concat()).await;
        assert!(dry.done().contains("This changes 2 shards"), "{dry:?}");
        assert_eq!(on(db, &apply).await.done(), "Changed 2 shards.");
        let seven = on(db, &["shards", "list", "--label", "team=ramp", "--label", "id=7", "--json"]).await.json();
        assert_eq!(seven.as_array().unwrap().len(), 1);
        let spec = json!({ "labels": {"team": "ramp"}, "is_disabled": true, "zone": "eu-1" });
        assert_eq!((&seven[0]["spec"], &seven[0]["mod_revision"]), (&spec, &json!(1)));
        let list = on(db, &["shards", "list"]).await;
        assert!(list.done().contains("team=ramp, disabled") && list.stdout.contains("0-9"), "{list:?}");
        assert_eq!(on(db, &["shards", "list", "--failed"]).await.done(), "There are no such shards.");

        let late = on(db, &["shards", "apply", "7", "--reset", "--expect-revision", "9"]).await;
        assert!(late.refused().contains("shard 7 is at revision 1, and not at 9"), "{late:?}");
        assert_eq!(on(db, &["shards", "apply", "7-9", "--reset"]).await.done(), "Reset 2 shards.");

        let none = on(db, &["shards", "unassign", "0-255", "--only-failed"]).await;
        assert_eq!(none.done(), "Nothing was changed: none of the shards has failed.");
        assert!(on(db, &["shards", "unassign", "3"]).await.refused().contains("this unassigns 1 shard"));
        assert_eq!(held(db, worker).await, 10);
        assert_eq!(on(db, &["shards", "unassign", "3-20", "--yes"]).await.done(), "Unassigned 7 shards.");
        assert_eq!(held(db, worker).await, 3);
    }
}
