//! Every action does on the database what its confirmation says.

use eventbox::dashboard::DashboardOptions;
use eventbox::{Event, admin};

use super::{Browser, dead_message, failing, message, order, row_id};
use crate::support::{TestEngine, on_every_engine};

const R: [(&str, &str); 1] = [("r", "order/7")];

on_every_engine! {
    async fn a_recipient_is_paused_and_resumed(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let (asked, done) = browser.act("pause", &R).await;
        asked.has("This pauses order/7");
        done.has("The recipient is paused.").has("id=\"action-resume\"").has("<h1>order/7</h1>");
        assert!(admin::standing(&db.pool, &order("7")).await.unwrap().paused);
        let (asked, done) = browser.act("resume", &R).await;
        asked.has("This resumes order/7");
        done.has("id=\"action-pause\"");
        assert!(!admin::standing(&db.pool, &order("7")).await.unwrap().paused);
    }

    async fn a_failing_recipient_is_tried_now(db) {
        eventbox::emit(&db.pool, &order("7"), Event::new("x")).await.unwrap();
        failing(db, &order("7")).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let (_, done) = browser.act("try-now", &R).await;
        done.has("tried at once");
        let standing = admin::standing(&db.pool, &order("7")).await.unwrap();
        let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        assert!(standing.next_attempt_at.is_none_or(|at| at <= soon));
    }

    async fn a_kind_is_paused_and_resumed(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let (asked, done) = browser.act("pause-kind", &[("kind", "order")]).await;
        asked.has("This pauses the kind order");
        done.has("id=\"resume-kind\"");
        assert_eq!(admin::paused_kinds(&db.pool).await.unwrap()[0].kind, "order");
        browser.act("resume-kind", &[("kind", "order")]).await;
        assert!(admin::paused_kinds(&db.pool).await.unwrap().is_empty());
    }

    async fn one_event_is_quarantined_replayed_and_deleted(db) {
        for value in ["a", "b"] {
            eventbox::emit(&db.pool, &order("7"), Event::new(value)).await.unwrap();
        }
        let first = admin::events(&db.pool, &order("7"), None, 1).await.unwrap()[0].id();
        let id = first.to_string();
        let browser = Browser::new(db, DashboardOptions::default());
        let (asked, done) = browser.act("quarantine", &[R[0], ("event", &id)]).await;
        asked.has("This moves 1 event of order/7");
        done.has("1 event moved to the dead letters.").has("because of the test");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (1, 1));
        let letter = format!("{}-{id}", order("7").shard());
        browser.act("replay-one", &[("letter", &letter)]).await.1.has("1 dead letter put back.");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (2, 0));
        let (asked, done) = browser.act("purge", &[R[0], ("event", &id)]).await;
        asked.has("This deletes 1 event of order/7 for good.");
        done.has("1 event deleted.");
        let left = admin::events(&db.pool, &order("7"), None, 10).await.unwrap();
        assert_eq!(left.iter().map(|event| event.value()).collect::<Vec<_>>(), [b"b"]);
    }

    async fn all_events_and_timers_are_deleted(db) {
        for value in ["a", "b", "c"] {
            eventbox::emit(&db.pool, &order("7"), Event::new(value)).await.unwrap();
            let later = Event::new(value).due_in(std::time::Duration::from_secs(3_600));
            eventbox::emit(&db.pool, &order("7"), later).await.unwrap();
        }
        let browser = Browser::new(db, DashboardOptions::default());
        browser.act("cancel-timers", &R).await.0.has("This deletes 3 timers of order/7 for good.");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (3, 0));
        let (asked, done) = browser.act("purge-all", &R).await;
        asked.has("This deletes 3 events of order/7 for good.");
        done.has("3 events deleted.");
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    async fn a_state_is_replaced_and_cleared(db) {
        admin::set_state(&db.pool, &order("7"), 0, Some(b"1")).await.unwrap();
        let browser = Browser::new(db, DashboardOptions::default());
        let state = r#"{"items": ["<a>", 2]}"#;
        let (asked, _) = browser.act("set-state", &[R[0], ("at_turn", "1"), ("state", state)]).await;
        asked.has("This replaces the state of order/7 at turn 1");
        asked.has("{&quot;items&quot;: [&quot;&lt;a&gt;&quot;, 2]}");
        let stored = admin::stored_state(&db.pool, &order("7")).await.unwrap();
        assert_eq!((stored.turn, stored.state.as_deref()), (2, Some(state.as_bytes())));
        let csrf = browser.csrf().await;
        let late = [("csrf", csrf.as_str()), ("action", "clear-state"), R[0], ("at_turn", "1")];
        assert_eq!(browser.post("/do", &late).await.status, 409, "the state was edited since");
        browser.act("clear-state", &[R[0], ("at_turn", "2")]).await;
        assert_eq!(admin::stored_state(&db.pool, &order("7")).await.unwrap().state, None);
    }

    async fn an_event_is_emitted(db) {
        let browser = Browser::new(db, DashboardOptions::default());
        let fields = [R[0], ("name", "click-1"), ("value", "a\r\npencil")];
        let (asked, done) = browser.act("emit", &fields).await;
        asked.has("named click-1 of 8 bytes to order/7");
        done.has("1 event emitted.");
        let events = admin::events(&db.pool, &order("7"), None, 10).await.unwrap();
        assert_eq!((events.len(), events[0].value(), events[0].name()), (1, &b"a\npencil"[..], Some("click-1")));
        let csrf = browser.csrf().await;
        let mut again = vec![("csrf", csrf.as_str()), ("action", "emit")];
        again.extend(fields);
        assert_eq!(browser.post("/confirm", &again).await.has("id=\"nothing\"").status, 200);
        assert_eq!(browser.post("/do", &again).await.status, 409);
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    async fn a_recipient_is_forgotten_when_it_is_old_enough(db) {
        admin::set_state(&db.pool, &order("7"), 0, Some(b"1")).await.unwrap();
        let browser = Browser::new(db, DashboardOptions::default());
        let csrf = browser.csrf().await;
        let form = [("csrf", csrf.as_str()), ("action", "forget"), R[0]];
        browser.post("/confirm", &form).await.has("less than an hour ago").has_not("id=\"confirm\"");
        db.run("UPDATE eventbox_state SET updated_at_us = 1").await;
        browser.act("forget", &R).await.0.has("its turns begin again at 1");
        assert_eq!(db.count("eventbox_state").await, 0);
    }

    async fn dead_letters_are_replayed_and_deleted_by_filter(db) {
        for number in [1, 2, 3] {
            dead_message(db, number).await;
        }
        db.run("UPDATE eventbox_dead_letter SET code = 'OTHER' WHERE shard = 3").await;
        let browser = Browser::new(db, DashboardOptions::default());
        let (asked, done) = browser.act("replay-dead", &[("code", "EXPIRED"), ("source", "flights")]).await;
        asked.has("This puts 2 dead letters back to where they came from: ");
        asked.has(": dead letters with code=EXPIRED source=flights.");
        done.has("2 dead letters put back.");
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (2, 1));
        browser.act("delete-dead", &[]).await.0.has("This deletes 1 dead letter for good: all dead letters.");
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
        dead_message(db, 4).await;
        browser.act("delete-one", &[("letter", &row_id::<Engine>(4).1)]).await;
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
    }

    async fn messages_are_retried_and_given_up(db) {
        message(db, 1).await;
        message(db, 2).await;
        let browser = Browser::new(db, DashboardOptions::default());
        let due = "SELECT count(*) FROM eventbox_outbox WHERE next_attempt_at_us < 3000000000000000";
        assert_eq!(db.number(due).await, 0);
        let (asked, done) = browser.act("retry-messages", &[("code", "UNAVAILABLE")]).await;
        asked.has("This makes 2 messages of the outbox due at once: messages with code=UNAVAILABLE.");
        done.has("2 messages due at once.");
        assert_eq!(db.number(due).await, 2);
        browser.act("bury-messages", &[("type", "departed")]).await.0.has("This moves 2 messages of the outbox");
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (0, 2));
        browser.get("/dead").await.has("because of the test");
    }

    async fn a_destination_is_paused_and_resumed(db) {
        message(db, 1).await;
        message(db, 2).await;
        let browser = Browser::new(db, DashboardOptions::default());
        browser.get("/outbox").await.has("id=\"destinations\"").has("No destination is paused.");
        let fields = [("source", "<flights>"), ("type", "departed")];
        let (asked, done) = browser.act("pause-destination", &fields).await;
        asked.has("This pauses the delivery of messages with source=&lt;flights&gt; type=departed");
        asked.has("Such messages in the outbox now: 2.");
        done.has("The delivery is paused.").has("id=\"resume-destination-0\"").has("because of the test");
        done.has_not("id=\"pause-destination-0\"");
        let paused = admin::paused_destinations(&db.pool).await.unwrap();
        assert_eq!((paused.len(), paused[0].why.as_deref()), (1, Some("because of the test")));
        browser.get("/").await.has("1 destination");
        let csrf = browser.csrf().await;
        let mut again = vec![("csrf", csrf.as_str()), ("action", "pause-destination")];
        again.extend(fields);
        browser.post("/confirm", &again).await.has("is paused already.");
        let reading = Browser::new(db, DashboardOptions::default().with_read_only(true));
        reading.get("/outbox").await.has("id=\"paused-destinations\"").has_not("id=\"resume-destination-0\"");
        browser.act("resume-destination", &fields).await.0.has("This resumes the delivery of messages with source=");
        browser.act("pause-destination", &[]).await.0.has("This pauses the delivery of all messages");
        assert_eq!(admin::paused_destinations(&db.pool).await.unwrap()[0].destination, admin::Destination::all());
    }

    /// The pages of a member whose breaker is open show it, and no page does when it is closed.
    async fn breakers_are_shown_while_they_are_open(db) {
        message(db, 1).await;
        let (id, now) = match Engine::FOLDER {
            "postgres" => ("gen_random_uuid()", "(extract(epoch FROM statement_timestamp()) * 1000000)::int8"),
            _ => ("randomblob(16)", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
        };
        let report = r#"{"breakers":[{"endpoint":"<chip>:443","is_half_open":false,"open_us":7000000,"error":"<b>no"}]}"#;
        db.run(format_args!(
            "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
             VALUES ({id}, 'host-a', 256, false, {now}, '{report}')"
        )).await;
        let browser = Browser::new(db, DashboardOptions::default());
        for path in ["/", "/outbox"] {
            let page = browser.get(path).await;
            page.has("id=\"breakers\"").has("&lt;chip&gt;:443").has("&lt;b&gt;no").has("breaker open");
        }
        browser.get("/shards").await.has("breaker open").has("&lt;chip&gt;:443 for 7 s");
        db.run("UPDATE eventbox_member SET report = '{}'").await;
        for path in ["/", "/outbox", "/shards"] {
            browser.get(path).await.has_not("id=\"breakers\"").has_not("breaker open");
        }
    }

    async fn a_confirmation_changes_nothing(db) {
        eventbox::emit(&db.pool, &order("7"), Event::new("x")).await.unwrap();
        let browser = Browser::new(db, DashboardOptions::default());
        let csrf = browser.csrf().await;
        for action in ["pause", "purge-all"] {
            let form = [("csrf", csrf.as_str()), ("action", action), R[0]];
            let asked = browser.post("/confirm", &form).await;
            asked.has("id=\"confirm-button\"").has("id=\"why\"").has("id=\"go-back\"");
        }
        let standing = admin::standing(&db.pool, &order("7")).await.unwrap();
        assert_eq!((standing.paused, standing.turn, db.count("eventbox_event").await), (false, 0, 1));
        browser.get("/operations").await.has("No operation was noted.");
        let unknown = browser.post("/confirm", &[("csrf", &csrf), ("action", "explode")]).await;
        assert_eq!(unknown.status, 400);
    }
}
