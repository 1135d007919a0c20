//! Dead letters of both sides, and the outbox.

use eventbox::{CloudEvent, Event, EventId, admin};
use serde_json::{Value, json};

use super::{Seed, emit, on, order};
use crate::support::{TestDb, TestEngine, on_every_engine};

async fn publish<B: Seed>(db: &TestDb<B>, source: &str, event_type: &str) {
    B::publish(&db.pool, CloudEvent::builder(source, event_type).subject("7").payload("paid").build().unwrap()).await;
}

/// Takes two events of order/7 aside, and kills two messages of the shop.
async fn kill<B: Seed>(db: &TestDb<B>) -> [EventId; 2] {
    let ids = [emit(db, Event::new("1")).await, emit(db, Event::new("{\"seat\": 2}").named("a")).await];
    admin::quarantine(&db.pool, &order(), &ids, "no such seat").await.unwrap();
    publish(db, "shop", "order.paid").await;
    publish(db, "shop", "order.sent").await;
    on(db, &["outbox", "dead", "--all", "--reason", "the schema is gone", "--yes"]).await.done();
    ids
}

fn ids(letters: &Value) -> Vec<String> {
    letters.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

on_every_engine! {
    async fn a_destination_is_paused_and_resumed(db) {
        publish(db, "shop", "order.paid").await;
        publish(db, "shop", "order.sent").await;
        publish(db, "hotel", "room.booked").await;
        let dry = on(db, &["pause", "--source", "shop", "--dry-run"]).await;
        let wanted = "This pauses the delivery of messages with source=shop. 2 messages are in the outbox. \
                      Nothing was changed.";
        assert_eq!(dry.done(), wanted);
        assert_eq!(db.count("eventbox_paused_destination").await, 0);
        let pause = ["pause", "--source", "shop", "--type", "order.paid", "--why", "repairs", "--json"];
        let done = on(db, &pause).await.json();
        let waiting = json!({ "number": 1, "precision": "exact" });
        assert_eq!(done, json!({ "touched": 1, "is_rehearsal": false, "waiting": waiting }));
        assert_eq!(on(db, &pause).await.json()["touched"], 0);

        let list = on(db, &["outbox", "list"]).await;
        assert!(list.done().contains("Paused: messages with source=shop type=order.paid"), "{list:?}");
        assert!(list.done().ends_with("by tester: repairs"), "{list:?}");
        let status = on(db, &["status"]).await;
        assert!(status.done().contains("Outbox: 3 waiting") && status.done().contains("1 paused"), "{status:?}");
        assert!(status.done().contains("  Paused: messages with source=shop type=order.paid"), "{status:?}");
        let groups = on(db, &["outbox", "list", "--json"]).await.json();
        let paused = groups["groups"].as_array().unwrap().iter().filter(|group| !group["paused"].is_null());
        assert_eq!((paused.count(), &groups["paused"][0]["source"]), (1, &json!("shop")));

        assert!(on(db, &["resume", "--source", "shop"]).await.done().contains("was not paused"));
        let resumed = on(db, &["resume", "--source", "shop", "--type", "order.paid"]).await;
        assert!(resumed.done().starts_with("Resumed the delivery of messages with source=shop"), "{resumed:?}");
        on(db, &["pause", "--all-messages"]).await.done();
        let all = on(db, &["outbox", "list"]).await;
        assert!(all.done().contains("Paused: all messages"), "{all:?}");
    }

    async fn breakers_are_shown_by_status_and_members(db) {
        let (id, now) = match Engine::FOLDER {
            "postgres" => ("gen_random_uuid()", "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"),
            _ => ("randomblob(16)", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
        };
        let breaker =
            json!({ "endpoint": "chip:443", "is_half_open": false, "open_us": 12_000_000, "error": "refused" });
        let report = json!({ "breakers": [breaker] });
        db.run(format_args!(
            "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
             VALUES ({id}, 'host-a', 256, false, {now}, '{report}')"
        )).await;
        let words = "sends nothing to chip:443, its breaker is open for 12 s: refused";
        for command in ["status", "members"] {
            let shown = on(db, &[command]).await;
            assert!(shown.done().contains(words), "{shown:?}");
        }
    }

    async fn dead_letters_are_listed_and_shown(db) {
        assert_eq!(on(db, &["dead", "list"]).await.done(), "There are no such dead letters.");
        let events = kill(db).await;
        assert_eq!(on(db, &["dead", "list", "--json"]).await.json().as_array().unwrap().len(), 4);
        for (filter, number) in [
            (&["--events"][..], 2),
            (&["--messages"], 2),
            (&["--code", "QUARANTINED"], 2),
            (&["--kind", "order"], 2),
            (&["--recipient", "order/7"], 2),
            (&["--recipient", "order/8"], 0),
            (&["--source", "shop"], 2),
            (&["--since", "1h"], 4),
            (&["--until", "1h"], 0),
        ] {
            let letters = on(db, &[&["dead", "list", "--json"], filter].concat()).await.json();
            assert_eq!(letters.as_array().unwrap().len(), number, "{filter:?}: {letters}");
        }
        let pages = on(db, &["dead", "list", "--limit", "3", "--json"]).await;
        let last = ids(&pages.json()).pop().unwrap();
        assert!(pages.stderr.contains(&format!("--after {last}")), "{pages:?}");
        assert_eq!(ids(&on(db, &["dead", "list", "--after", &last, "--json"]).await.json()).len(), 1);

        let id = format!("{}-{}", order().shard(), events[1]);
        let shown = on(db, &["dead", "show", &id]).await;
        assert_eq!(shown.done(), "{\"seat\": 2}");
        assert!(shown.stderr.contains("no such seat") && shown.stderr.contains("order/7"), "{shown:?}");
        let document = on(db, &["dead", "show", &id, "--json"]).await.json();
        assert_eq!((&document["json"], &document["dead"]["name"]), (&json!({ "seat": 2 }), &json!("a")));
        let messages = on(db, &["dead", "list", "--messages", "--json"]).await.json();
        let message = on(db, &["dead", "show", &ids(&messages)[0], "--json"]).await.json();
        assert_eq!((&message["message"]["source"], &message["message"]["subject"]), (&json!("shop"), &json!("7")));
        let gone = on(db, &["dead", "show", "3-0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b"]).await;
        assert_eq!((gone.code, gone.stdout.as_str()), (Some(1), ""), "{gone:?}");
    }

    async fn dead_letters_are_replayed_and_deleted(db) {
        let events = kill(db).await;
        assert!(on(db, &["dead", "replay"]).await.refused().contains("a filter, or --all"));
        assert!(on(db, &["dead", "delete", "--events"]).await.refused().contains("this deletes 2 dead letters"));
        let id = format!("{}-{}", order().shard(), events[0]);
        assert!(on(db, &["dead", "replay", &id, "--events"]).await.refused().contains("exclude each other"));
        assert_eq!(on(db, &["dead", "replay", &id, "--yes"]).await.done(), "Replayed 1 dead letter.");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (1, 3));
        let dry = on(db, &["dead", "replay", "--all", "--dry-run", "--json"]).await.json();
        assert_eq!(dry, json!({ "touched": 3, "is_rehearsal": true }));
        on(db, &["dead", "replay", "--messages", "--yes"]).await.done();
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (2, 1));
        assert_eq!(on(db, &["dead", "delete", "--kind", "order", "--yes"]).await.done(), "Deleted 1 dead letter.");
        assert_eq!((db.count("eventbox_dead_letter").await, db.count("eventbox_event").await), (0, 1));
    }

    async fn messages_are_grouped_retried_and_buried(db) {
        assert_eq!(on(db, &["outbox", "list"]).await.done(), "The outbox is empty.");
        for event_type in ["order.paid", "order.paid", "order.sent"] {
            publish(db, "shop", event_type).await;
        }
        db.run(
            "UPDATE eventbox_outbox SET attempts = 3, next_attempt_at_us = 4000000000000000,
                 last_code = 'UNAVAILABLE', last_error = 'no route'",
        )
        .await;
        let groups = on(db, &["outbox", "list", "--json"]).await.json();
        let first = &groups["groups"][0];
        assert_eq!((&first["event_type"], &first["messages"]["number"]), (&json!("order.paid"), &json!(2)), "{groups}");
        assert!(on(db, &["outbox", "list"]).await.done().contains("no route"));
        let messages = on(db, &["outbox", "list", "--messages", "--type", "order.sent", "--json"]).await.json();
        assert_eq!((messages.as_array().unwrap().len(), &messages[0]["last_error"]), (1, &json!("no route")));
        let none = on(db, &["outbox", "list", "--messages", "--code", "OK"]).await;
        assert_eq!(none.done(), "There are no such messages.");

        let waiting = "SELECT count(*) FROM eventbox_outbox WHERE next_attempt_at_us = 4000000000000000";
        assert!(on(db, &["outbox", "retry"]).await.refused().contains("--all"));
        on(db, &["outbox", "retry", "--all", "--dry-run"]).await.done();
        assert_eq!(db.number(waiting).await, 3);
        assert_eq!(on(db, &["outbox", "retry", "--type", "order.sent"]).await.done(), "Made 1 message due at once.");
        assert_eq!(db.number(waiting).await, 2);

        let bury = ["outbox", "dead", "--source", "shop", "--type", "order.paid", "--reason", "the schema is gone"];
        assert!(on(db, &bury).await.refused().contains("2 messages"));
        on(db, &[&bury[..], &["--yes"]].concat()).await.done();
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (1, 2));
        let reasons = db.texts("SELECT reason FROM eventbox_dead_letter").await;
        assert_eq!(reasons, ["the schema is gone", "the schema is gone"]);
    }
}
