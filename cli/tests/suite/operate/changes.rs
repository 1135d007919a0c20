//! Commands that change the events of a recipient, or stop and start it.

use std::time::Duration;

use eventbox::testing::events_of;
use eventbox::{Event, admin};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{emit, eventbox, fail, finish, on, order, run};
use crate::support::on_every_engine;

on_every_engine! {
    async fn emit_takes_text_files_and_standard_input(db) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xff, 0]).unwrap();
        let argument = format!("@{}", file.path().display());
        assert_eq!(on(db, &["emit", "order/7", "text"]).await.done(), "Added the event to order/7.");
        on(db, &["emit", "order/7", &argument]).await.done();
        let url = db.url();
        let mut piped = eventbox(&["emit", "order/7", "-", "--database-url", &url]);
        let mut child = piped.stdin(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"piped").await.unwrap();
        assert!(child.wait_with_output().await.unwrap().status.success());
        let events = events_of(&db.pool, &order()).await.unwrap();
        let values: Vec<&[u8]> = events.iter().map(Event::value).collect();
        assert_eq!(values, [&b"text"[..], &[0xff, 0], b"piped"]);

        let named = ["emit", "order/7", "x", "--name", "payment-1", "--json"];
        assert_eq!(on(db, &named).await.json()["emitted"], "added");
        assert_eq!(on(db, &named).await.json()["emitted"], "duplicate");
        on(db, &["emit", "order/7", "later", "--in", "1h"]).await.done();
        on(db, &["emit", "order/7", "later", "--at", "2100-01-01T00:00:00Z"]).await.done();
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (4, 2));
        on(db, &["emit", "order/7", "never", "--dry-run"]).await.done();
        assert_eq!(db.count("eventbox_event").await, 4);
    }

    async fn pause_and_resume_are_repeatable(db) {
        emit(db, Event::new("x")).await;
        let dry = on(db, &["pause", "order/7", "--dry-run"]).await;
        assert_eq!(dry.done(), "This pauses order/7. Nothing was changed.");
        assert!(!admin::standing(&db.pool, &order()).await.unwrap().paused);
        assert_eq!(on(db, &["pause", "order/7", "--why", "support asked"]).await.done(), "Paused order/7.");
        assert!(admin::standing(&db.pool, &order()).await.unwrap().paused);
        let again = on(db, &["pause", "order/7", "--json"]).await.json();
        assert_eq!(again, json!({ "touched": 0, "is_rehearsal": false }));
        on(db, &["pause", "--kind", "order"]).await.done();
        assert!(admin::standing(&db.pool, &order()).await.unwrap().kind_paused);
        on(db, &["resume", "--kind", "order"]).await.done();
        on(db, &["resume", "order/7"]).await.done();
        let standing = admin::standing(&db.pool, &order()).await.unwrap();
        assert_eq!((standing.paused, standing.kind_paused), (false, false));

        let log = on(db, &["operations", "--json"]).await.json();
        let first = log.as_array().unwrap().last().unwrap().clone();
        let noted = ["who", "why", "target"].map(|field| first[field].as_str().unwrap());
        assert_eq!(noted, ["tester", "support asked", "order/7"]);
        assert!(on(db, &["operations"]).await.done().contains("support asked"));
    }

    async fn retry_makes_a_failing_recipient_due(db) {
        emit(db, Event::new("x")).await;
        assert!(on(db, &["retry", "order/7"]).await.done().contains("is not failing"));
        fail(db, &order()).await;
        assert_eq!(on(db, &["retry", "order/7"]).await.done(), "Made order/7 due at once.");
        let far = db.number("SELECT count(*) FROM eventbox_failure WHERE next_attempt_at_us = 4000000000000000").await;
        assert_eq!(far, 0);
    }

    async fn quarantine_takes_events_aside(db) {
        let ids = [emit(db, Event::new("bad")).await.to_string(), emit(db, Event::new("good")).await.to_string()];
        let args = ["quarantine", "order/7", &ids[0], "--reason", "no such seat"];
        assert!(on(db, &args).await.refused().contains("this quarantines 1 event of order/7"));
        assert_eq!(on(db, &[&args[..], &["--yes"]].concat()).await.done(), "Quarantined 1 event of order/7.");
        assert_eq!(db.texts("SELECT reason FROM eventbox_dead_letter").await, ["no such seat"]);
        assert_eq!(db.count("eventbox_event").await, 1);
        assert!(on(db, &[&args[..], &["--yes"]].concat()).await.done().contains("no such event"));
    }

    async fn purge_deletes_the_named_events_or_all(db) {
        let first = emit(db, Event::new("1")).await.to_string();
        for _ in 0..3 {
            emit(db, Event::new("more")).await;
        }
        emit(db, Event::new("later").due_in(Duration::from_secs(3_600))).await;
        let one = on(db, &["purge", "order/7", &first, "--yes"]).await;
        assert_eq!(one.done(), "Deleted 1 event of order/7.");
        assert_eq!(one.stderr.trim_end(), "This deletes 1 event of order/7.");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (3, 1));
        let dry = on(db, &["purge", "order/7", "--dry-run", "--json"]).await.json();
        assert_eq!(dry, json!({ "touched": 4, "is_rehearsal": true }));
        let refused = on(db, &["purge", "order/7"]).await;
        let wanted = "this deletes 4 events of order/7, and there is no terminal to ask: give --yes";
        assert!(refused.refused().contains(wanted), "{refused:?}");
        assert_eq!(db.count("eventbox_event").await, 3, "neither a rehearsal nor a refusal deletes anything");
        assert_eq!(on(db, &["purge", "order/7", "-y"]).await.done(), "Deleted 4 events of order/7.");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (0, 0));
    }

    async fn timers_are_cancelled(db) {
        emit(db, Event::new("later").due_in(Duration::from_secs(3_600))).await;
        emit(db, Event::new("now")).await;
        assert!(on(db, &["timers", "order/7", "--cancel"]).await.refused().contains("cancels 1 timer of order/7"));
        assert_eq!(on(db, &["timers", "order/7", "--cancel", "--yes"]).await.done(), "Cancelled 1 timer of order/7.");
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await), (0, 1));
    }

    /// A file of settings has the answers in advance.
    async fn the_configuration_completes_the_options(db) {
        emit(db, Event::new("x")).await;
        let directory = tempfile::tempdir().unwrap();
        let url = db.url();
        let text = format!("database_url = '{url}'\nformat = 'json'\nyes = true\nwho = 'config'\nwhy = 'cleaning'\n");
        std::fs::write(directory.path().join("eventbox.toml"), text).unwrap();
        let mut purge = eventbox(&["purge", "order/7"]);
        purge.current_dir(directory.path());
        assert_eq!(finish(purge).await.json(), json!({ "touched": 1, "is_rehearsal": false }));
        assert_eq!(db.count("eventbox_event").await, 0);
        let log = on(db, &["operations", "--json"]).await.json();
        let last = log.as_array().unwrap().first().unwrap();
        assert_eq!((&last["who"], &last["why"]), (&json!("config"), &json!("cleaning")));
        let named = directory.path().join("eventbox.toml");
        let table = run(&["boxes", "--format", "table", "--config", named.to_str().unwrap()]).await;
        assert_eq!(table.done(), "There is no such recipient.");
        assert!(serde_json::from_str::<Value>(table.done()).is_err());
    }
}
