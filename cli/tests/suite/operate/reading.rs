//! Commands that only read.

use std::time::Duration;

use eventbox::{Event, Recipient, admin};
use serde_json::{Value, json};

use super::{Seed, emit, fail, on, order};
use crate::support::{TestDb, on_every_engine};

/// Fills a database: two events, a timer and a quarantined event of order/7, a paused order/8, a failing flight/1.
async fn fill<B: Seed>(db: &TestDb<B>) {
    emit(db, Event::new("\"first\"").named("a")).await;
    emit(db, Event::new("second")).await;
    emit(db, Event::new("later").named("t").due_in(Duration::from_secs(3_600))).await;
    let bad = emit(db, Event::new("bad")).await;
    admin::quarantine(&db.pool, &order(), &[bad], "no such seat").await.unwrap();
    admin::pause(&db.pool, &Recipient::new("order", "8").unwrap()).await.unwrap();
    let flight = Recipient::new("flight", "1").unwrap();
    B::emit(&db.pool, &flight, Event::new("x")).await;
    fail(db, &flight).await;
}

fn texts<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

on_every_engine! {
    async fn status_shows_kinds_outbox_and_workers(db) {
        assert!(on(db, &["status"]).await.done().starts_with("No recipient has events, timers or failures."));
        fill(db).await;
        let status = on(db, &["status", "--json"]).await.json();
        let kind = |name: &str| {
            let kinds = status["kinds"].as_array().unwrap();
            kinds.iter().find(|kind| kind["kind"] == name).unwrap().clone()
        };
        let (orders, flights) = (kind("order"), kind("flight"));
        assert_eq!(orders["waiting"], json!({ "number": 2, "precision": "exact" }), "{orders}");
        for (name, number) in [("timers", 1), ("failing", 0), ("paused", 1), ("quarantined", 1)] {
            assert_eq!(orders[name]["number"], number, "{name} of {orders}");
        }
        assert_eq!((&flights["waiting"]["number"], &flights["failing"]["number"]), (&json!(1), &json!(1)), "{flights}");
        assert_eq!((&status["members"], &status["free_shards"]), (&json!([]), &json!(256)));
        let table = on(db, &["status"]).await;
        for wanted in ["kind", "order", "flight", "no worker knows it", "Outbox: 0 waiting", "Workers: none"] {
            assert!(table.done().contains(wanted), "{wanted} in {table:?}");
        }
    }

    async fn boxes_are_filtered_and_paged(db) {
        fill(db).await;
        let page = on(db, &["boxes", "--json"]).await.json();
        let mut waiting = texts(&page["rows"], "recipient");
        waiting.sort_unstable();
        assert_eq!(waiting, ["flight/1", "order/7"]);
        for (filter, wanted) in [("--failing", "flight/1"), ("--paused", "order/8"), ("--quarantined", "order/7")] {
            let page = on(db, &["boxes", filter, "--json"]).await.json();
            assert_eq!(texts(&page["rows"], "recipient"), [wanted], "{filter}");
        }
        let longest = on(db, &["boxes", "--order", "longest", "--json"]).await.json();
        assert_eq!(texts(&longest["rows"], "recipient"), ["order/7", "flight/1"]);
        let orders = on(db, &["boxes", "--kind", "order", "--prefix", "7"]).await;
        assert!(orders.done().contains("order/7") && !orders.stdout.contains("flight/1"), "{orders:?}");

        let first = on(db, &["boxes", "--limit", "1", "--json"]).await;
        let next = first.json()["next"].as_str().unwrap().to_owned();
        assert!(first.stderr.contains(&format!("--after {next}")), "{first:?}");
        let second = on(db, &["boxes", "--limit", "1", "--after", &next, "--json"]).await.json();
        let first = first.json();
        let mut both = [texts(&first["rows"], "recipient"), texts(&second["rows"], "recipient")].concat();
        both.sort_unstable();
        assert_eq!(both, ["flight/1", "order/7"]);
    }

    async fn show_has_values_only_when_asked(db) {
        fill(db).await;
        let shown = on(db, &["show", "order/7", "--json"]).await.json();
        assert_eq!((&shown["recipient"], &shown["waiting"]["number"]), (&json!("order/7"), &json!(2)), "{shown}");
        assert_eq!((&shown["events"][0]["name"], &shown["events"][0]["value"]), (&json!("a"), &Value::Null), "{shown}");
        assert_eq!(shown["quarantined"][0]["reason"], "no such seat");
        assert_eq!((shown["timers"].as_array().unwrap().len(), shown["names"].as_array().unwrap().len()), (1, 2));

        let page = on(db, &["show", "order/7"]).await;
        for wanted in ["order/7", "Oldest events", "Timers", "in 60 min", "In quarantine", "no such seat"] {
            assert!(page.done().contains(wanted), "{wanted} in {page:?}");
        }
        assert!(!page.stdout.contains("second"), "{page:?}");
        let page = on(db, &["show", "order/7", "--values", "--limit", "2"]).await;
        assert!(page.done().contains("\"first\"") && page.stdout.contains("second"), "{page:?}");
        let unknown = on(db, &["show", "order/none"]).await;
        assert!(unknown.done().contains("none yet"), "{unknown:?}");
    }

    async fn why_says_what_to_do(db) {
        fill(db).await;
        let why = on(db, &["why", "order/8", "--json"]).await.json();
        assert_eq!(why["recipient"], "order/8", "{why}");
        let text = on(db, &["why", "order/none"]).await;
        assert!(text.done().lines().count() >= 1, "{text:?}");
        let waiting = on(db, &["why", "order/7"]).await;
        let document = on(db, &["why", "order/7", "--json"]).await.json();
        let [sentence, advice] = ["sentence", "advice"].map(|field| document[field].as_str().unwrap());
        assert_eq!(waiting.done(), format!("{sentence}\n{advice}"));
    }

    async fn names_and_timers_are_listed(db) {
        fill(db).await;
        let names = on(db, &["names", "order/7", "--json"]).await.json();
        let mut names = texts(&names, "name");
        names.sort_unstable();
        assert_eq!(names, ["a", "t"]);
        assert!(on(db, &["names", "order/none"]).await.done().contains("no names"));
        let timers = on(db, &["timers", "order/7", "--json"]).await.json();
        assert_eq!(texts(&timers, "name"), ["t"]);
        assert!(on(db, &["timers", "order/7"]).await.done().contains("in 60 min"));
    }

    async fn the_doctor_exits_by_the_worst_finding(db) {
        let healthy = on(db, &["doctor", "--integrity", "--json"]).await;
        let findings = healthy.json();
        assert!(!findings.as_array().unwrap().is_empty(), "{healthy:?}");
        assert!(findings.as_array().unwrap().iter().all(|finding| finding["severity"] != "error"), "{findings}");
        db.run("DELETE FROM eventbox_migration").await;
        let broken = on(db, &["doctor"]).await;
        assert_eq!(broken.code, Some(1), "{broken:?}");
        assert!(broken.stdout.contains("error"), "{broken:?}");
    }
}
