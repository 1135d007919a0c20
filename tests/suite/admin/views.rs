//! What an operator asks: the overview, lists of recipients, one recipient, messages and dead letters.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use eventbox::admin::{
    self, DeadFilter, InspectOptions, KindOverview, MessageFilter, Only, Order, RecipientQuery, Side,
};
use eventbox::{CloudEvent, Event, Precision, Recipient, outbox};

use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

fn to(kind: &str, key: impl std::fmt::Display + Copy) -> Recipient {
    Recipient::new(kind, format!("{key}")).unwrap()
}

async fn emit<B: CellEngine>(db: &TestDb<B>, of: &Recipient, count: usize) {
    let mut conn = db.pool.acquire().await.unwrap();
    for n in 0..count {
        B::emit(&mut conn, of, Event::new(format!("{n}"))).await.unwrap();
    }
}

async fn kind<B: TestEngine>(db: &TestDb<B>, name: &str) -> KindOverview {
    let overview = admin::overview(&db.pool).await.unwrap();
    overview.kinds.into_iter().find(|kind| kind.kind == name).unwrap()
}

/// Makes a recipient fail, as a runtime notes it.
async fn fail<B: TestEngine>(db: &TestDb<B>, of: &Recipient, attempts: u32) {
    db.run(format_args!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
         VALUES ({}, '{of}', {attempts}, 9000000000000000, 'no seat')",
        of.shard()
    ))
    .await;
}

fn message(source: &str, r#type: &str) -> CloudEvent {
    CloudEvent::builder(source, r#type).payload("x").build().unwrap()
}

on_every_engine! {
    async fn the_overview_counts_each_kind(db) {
        let began = SystemTime::now() - Duration::from_millis(1);
        emit(db, &to("order", 1), 3).await;
        emit(db, &to("order", 2), 2).await;
        emit(db, &to("order", "bad"), 2).await;
        emit(db, &to("orders", 1), 1).await;
        let due = SystemTime::now() + Duration::from_secs(3_600);
        eventbox::emit_all(&db.pool, &[(to("run", 1), Event::new("x").due_at(due))]).await.unwrap();
        fail(db, &to("order", 2), 4).await;
        admin::pause(&db.pool, &to("order", 3)).await.unwrap();
        admin::pause_kind(&db.pool, "aircraft").await.unwrap();
        let bad = admin::events(&db.pool, &to("order", "bad"), None, 1).await.unwrap()[0].id();
        admin::quarantine(&db.pool, &to("order", "bad"), &[bad], "bad").await.unwrap();

        let overview = admin::overview(&db.pool).await.unwrap();
        let names: Vec<_> = overview.kinds.iter().map(|kind| kind.kind.as_str()).collect();
        assert_eq!((names, overview.is_complete), (vec!["aircraft", "order", "orders", "run"], true));
        assert_eq!((overview.free_shards, overview.members.len()), (256, 0));
        let order = kind(db, "order").await;
        let numbers = [order.waiting, order.timers, order.failing, order.paused, order.quarantined];
        assert_eq!(numbers.map(|count| count.number), [6, 0, 1, 1, 1]);
        assert!(numbers.iter().all(|count| count.precision == Precision::Exact));
        assert!(order.oldest_at.unwrap() >= began && order.oldest_at.unwrap() <= SystemTime::now());
        assert!(!order.is_paused && kind(db, "aircraft").await.is_paused);
        assert_eq!(kind(db, "orders").await.waiting.number, 1, "a kind is no prefix of another");
        let run = kind(db, "run").await;
        assert_eq!((run.timers.number, run.waiting.number, run.oldest_at), (1, 0, None));
        let off = run.next_due_at.unwrap().duration_since(due).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_millis(1), "{off:?}");
    }

    /// The gauges are the numbers of the overview, and those of a kind that has vanished are 0.
    async fn gauges_are_the_numbers_of_the_overview(db) {
        let recorder = eventbox::prometheus::recorder().unwrap();
        let (handle, mut gauges) = (recorder.handle(), admin::Gauges::default());
        let mut scrape = async || {
            let overview = admin::overview(&db.pool).await.unwrap();
            metrics::with_local_recorder(&recorder, || gauges.set(&overview));
            let text = handle.render();
            move |name: &str| -> f64 {
                let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
                let line = line.unwrap_or_else(|| panic!("{name}"));
                line.rsplit_once(' ').unwrap().1.parse().unwrap()
            }
        };
        emit(db, &to("order", 1), 3).await;
        emit(db, &to("order", "bad"), 1).await;
        fail(db, &to("order", 2), 4).await;
        admin::pause(&db.pool, &to("order", 3)).await.unwrap();
        let later = Event::new("x").due_in(Duration::from_secs(60));
        eventbox::emit_all(&db.pool, &[(to("order", 1), later)]).await.unwrap();
        let bad = admin::events(&db.pool, &to("order", "bad"), None, 1).await.unwrap()[0].id();
        admin::quarantine(&db.pool, &to("order", "bad"), &[bad], "bad").await.unwrap();
        for source in ["flights", "hotels", "hotels"] {
            drop(outbox::publish_in(&db.pool, message(source, "x")).await.unwrap());
        }
        let operator = admin::Operator::new(db.pool.clone(), "ana");
        operator.bury_messages(&MessageFilter::new().source("flights"), "closed", |_| ()).await.unwrap();
        let value = scrape().await;
        for (name, number) in [
            ("eventbox_size{kind=\"order\"}", 3.0),
            ("eventbox_timers{kind=\"order\"}", 1.0),
            ("eventbox_failing_recipients{kind=\"order\"}", 1.0),
            ("eventbox_paused_recipients{kind=\"order\"}", 1.0),
            ("eventbox_quarantined_events{kind=\"order\"}", 1.0),
            ("eventbox_members", 0.0),
            ("eventbox_free_shards", 256.0),
            ("eventbox_outbox_messages", 2.0),
            ("eventbox_outbox_dead_letters", 1.0),
        ] {
            assert_eq!(value(name), number, "{name}");
        }
        for name in ["eventbox_oldest_age_seconds{kind=\"order\"}", "eventbox_outbox_oldest_age_seconds"] {
            assert!((0.0..60.0).contains(&value(name)), "{name}: {}", value(name));
        }
        for table in ["event", "timer", "failure", "dead_letter", "outbox"] {
            db.run(format_args!("DELETE FROM eventbox_{table}")).await;
        }
        let value = scrape().await;
        let failing = "eventbox_failing_recipients{kind=\"order\"}";
        for name in ["eventbox_size{kind=\"order\"}", failing, "eventbox_outbox_messages"] {
            assert_eq!(value(name), 0.0, "{name}");
        }
    }

    async fn the_overview_of_an_empty_database_is_empty(db) {
        let overview = admin::overview(&db.pool).await.unwrap();
        assert!(overview.kinds.is_empty() && overview.is_complete && overview.members.is_empty());
        assert_eq!((overview.outbox.waiting.number, overview.outbox.oldest_at), (0, None));
    }

    async fn the_overview_tells_what_the_outbox_waits_for(db) {
        for _ in 0..3 {
            drop(outbox::publish_in(&db.pool, message("flights", "departed")).await.unwrap());
        }
        drop(outbox::publish_in(&db.pool, message("hotels", "booked")).await.unwrap());
        db.run("UPDATE eventbox_outbox SET attempts = 5, last_code = 'UNAVAILABLE', last_error = 'down'
                WHERE source = 'flights'").await;
        let outbox = admin::overview(&db.pool).await.unwrap().outbox;
        assert_eq!((outbox.waiting.number, outbox.struggling.number, outbox.dead_letters.number), (4, 3, 0));
        assert!(outbox.oldest_at.unwrap().elapsed().unwrap() < Duration::from_secs(60));

        let groups = admin::message_groups(&db.pool).await.unwrap();
        assert!(groups.is_complete);
        let seen: Vec<_> = groups.groups.iter().map(|group| {
            (group.source.as_str(), group.event_type.as_str(), group.messages.number, group.most_attempts,
             group.last_code.as_deref(), group.last_error.as_deref())
        }).collect();
        assert_eq!(seen, [
            ("flights", "departed", 3, 5, Some("UNAVAILABLE"), Some("down")),
            ("hotels", "booked", 1, 1, None, None),
        ]);
        let listed = async |filter: MessageFilter| {
            let (mut found, mut after) = (0, None);
            loop {
                let page = admin::messages(&db.pool, &filter, after, 2).await.unwrap();
                let Some(last) = page.last() else { break found };
                (after, found) = (Some(last.id), found + page.len());
            }
        };
        assert_eq!(listed(MessageFilter::new()).await, 4);
        assert_eq!(listed(MessageFilter::new().source("flights")).await, 3);
        assert_eq!(listed(MessageFilter::new().code("UNAVAILABLE").event_type("departed")).await, 3);
        assert_eq!(listed(MessageFilter::new().source("hotels").code("UNAVAILABLE")).await, 0);
    }

    async fn recipients_are_listed_page_by_page_and_by_prefix(db) {
        let all: BTreeSet<_> = (0..40).map(|n| to("order", format_args!("{n:02}"))).collect();
        for of in all.iter().chain(&[to("order", "1"), to("orde", "10"), to("order0", "1"), to("zebra", "1")]) {
            emit(db, of, 1).await;
        }
        let pages = async |query: RecipientQuery| {
            let (mut seen, mut query) = (Vec::new(), query.limit(7));
            loop {
                let page = admin::recipients(&db.pool, &query).await.unwrap();
                assert!(page.rows.len() <= 7 && page.is_complete);
                seen.extend(page.rows.into_iter().map(|row| row.recipient));
                let Some(next) = page.next else { break seen };
                assert_eq!(seen.last(), Some(&next));
                query = query.after(&next);
            }
        };
        let seen = pages(RecipientQuery::new().kind("order")).await;
        assert_eq!(seen.len(), 41);
        assert!(seen.is_sorted_by_key(|of| (of.shard(), of.clone())), "{seen:?}");
        let seen: BTreeSet<_> = seen.into_iter().collect();
        assert!(seen.is_superset(&all) && seen.contains(&to("order", "1")));
        let seen: BTreeSet<_> = pages(RecipientQuery::new().kind("order").key_prefix("1")).await.into_iter().collect();
        let wanted = (10..20).map(|n| to("order", n)).chain([to("order", "1")]).collect();
        assert_eq!(seen, wanted, "the prefix itself is a key, too");
        assert_eq!(pages(RecipientQuery::new()).await.len(), 44);
        assert_eq!(pages(RecipientQuery::new().kind("nobody")).await, []);
    }

    async fn recipients_are_listed_by_condition(db) {
        emit(db, &to("order", "waits"), 3).await;
        emit(db, &to("order", "bad"), 2).await;
        fail(db, &to("order", "fails"), 2).await;
        admin::pause(&db.pool, &to("order", "paused")).await.unwrap();
        let bad = admin::events(&db.pool, &to("order", "bad"), None, 1).await.unwrap()[0].id();
        admin::quarantine(&db.pool, &to("order", "bad"), &[bad], "bad").await.unwrap();
        let listed = async |only| {
            let page = admin::recipients(&db.pool, &RecipientQuery::new().kind("order").only(only)).await.unwrap();
            let mut keys: Vec<_> = page.rows.iter().map(|row| row.recipient.key().to_owned()).collect();
            keys.sort();
            (keys.join(" "), page.rows)
        };
        assert_eq!(listed(Only::Waiting).await.0, "bad waits");
        assert_eq!(listed(Only::All).await.0, "bad paused", "these had a write that is no emit");
        let (keys, rows) = listed(Only::Failing).await;
        assert_eq!((keys.as_str(), rows[0].attempts, rows[0].error.as_deref()), ("fails", 2, Some("no seat")));
        assert!(rows[0].next_attempt_at.unwrap() > SystemTime::now());
        let (keys, rows) = listed(Only::Paused).await;
        assert_eq!((keys.as_str(), rows[0].is_paused, rows[0].next_attempt_at), ("paused", true, None));
        let (keys, rows) = listed(Only::Quarantined).await;
        assert_eq!((keys.as_str(), rows[0].quarantined.number, rows[0].waiting.number), ("bad", 1, 1));
    }

    async fn the_longest_and_the_oldest_boxes_come_first(db) {
        for (key, count) in [("a", 5), ("b", 250), ("c", 120), ("d", 1)] {
            emit(db, &to("order", key), count).await;
        }
        let by = async |order, limit| {
            let query = RecipientQuery::new().kind("order").order(order).limit(limit);
            let page = admin::recipients(&db.pool, &query).await.unwrap();
            assert!(page.is_complete && page.next.is_none());
            page.rows.iter().map(|row| (row.recipient.key().to_owned(), row.waiting.number)).collect::<Vec<_>>()
        };
        let row = |key: &str, count| (key.to_owned(), count);
        assert_eq!(by(Order::Longest, 3).await, [row("b", 250), row("c", 120), row("a", 5)]);
        assert_eq!(by(Order::Oldest, 2).await, [row("a", 5), row("b", 250)]);
    }

    async fn an_inspection_shows_everything_but_values(db) {
        let of = to("order", "<script>/ü");
        eventbox::emit_all(&db.pool, &[
            (of.clone(), Event::new("secret").named("first")),
            (of.clone(), Event::new("two")),
            (of.clone(), Event::new("later").due_in(Duration::from_secs(7_200))),
            (of.clone(), Event::new("soon").due_in(Duration::from_secs(3_600)).named("soon")),
            (of.clone(), Event::new("bad")),
        ]).await.unwrap();
        let bad = admin::events(&db.pool, &of, None, 10).await.unwrap()[2].id();
        admin::quarantine(&db.pool, &of, &[bad], "no number").await.unwrap();
        admin::set_state(&db.pool, &of, 1, Some(br#"{"a":1}"#)).await.unwrap();

        let detail = admin::inspect(&db.pool, &of, &InspectOptions::default()).await.unwrap();
        assert_eq!((detail.standing.turn, detail.waiting.number, detail.shard), (2, 2, of.shard()));
        assert_eq!(detail.state.as_ref().unwrap().json.as_deref(), Some("{\n  \"a\": 1\n}"));
        let events: Vec<_> = detail.events.iter().map(|event| (event.name.as_deref(), event.bytes)).collect();
        assert_eq!(events, [(Some("first"), 6), (None, 3)]);
        assert!(detail.events.iter().all(|event| event.value.is_none()));
        let timers: Vec<_> = detail.timers.iter().map(|timer| timer.name.as_deref()).collect();
        assert_eq!(timers, [Some("soon"), None], "the first due comes first");
        assert_eq!((detail.quarantined[0].id, detail.quarantined[0].reason.as_str()), (bad, "no number"));
        let names: Vec<_> = detail.names.iter().map(|name| name.name.as_str()).collect();
        assert_eq!(names, ["first", "soon"]);
        assert_eq!((detail.lease.shard, detail.lease.holder, detail.holder), (of.shard(), None, None));

        let options = InspectOptions::default().limit(1).with_values(true);
        let detail = admin::inspect(&db.pool, &of, &options).await.unwrap();
        assert_eq!((detail.events.len(), detail.timers.len(), detail.names.len()), (1, 1, 1));
        assert_eq!(detail.events[0].value.as_deref(), Some(&b"secret"[..]));
        let json = serde_json::to_value(&detail).unwrap();
        let shown = (json["recipient"].as_str(), json["events"][0]["value"].as_str());
        assert_eq!(shown, (Some(of.as_str()), Some("secret")));
        assert_eq!(json["waiting"], serde_json::json!({"number": 2, "precision": "exact"}));
        assert!(json["events"][0]["emitted_at"].as_str().unwrap().ends_with('Z'));
    }

    async fn an_unknown_recipient_is_shown_as_empty(db) {
        let detail = admin::inspect(&db.pool, &to("order", "x"), &InspectOptions::default()).await.unwrap();
        assert_eq!((detail.standing.turn, detail.waiting.number, detail.state), (0, 0, None));
        admin::set_state(&db.pool, &to("order", "x"), 0, Some(b"\xff\x00")).await.unwrap();
        let detail = admin::inspect(&db.pool, &to("order", "x"), &InspectOptions::default()).await.unwrap();
        let state = detail.state.unwrap();
        assert_eq!((state.bytes, state.json), (2, None), "what is no JSON is not shown");
    }

    async fn dead_letters_of_both_sides_are_filtered(db) {
        for (of, code) in [("order/1", "POISON"), ("order/2", "QUARANTINED"), ("run/1", "POISON")] {
            let of: Recipient = of.parse().unwrap();
            emit(db, &of, 1).await;
            let id = admin::events(&db.pool, &of, None, 1).await.unwrap()[0].id();
            admin::quarantine(&db.pool, &of, &[id], "bad").await.unwrap();
            db.run(format_args!("UPDATE eventbox_dead_letter SET code = '{code}' WHERE recipient = '{of}'")).await;
        }
        drop(outbox::publish_in(&db.pool, message("flights", "departed")).await.unwrap());
        drop(outbox::publish_in(&db.pool, message("hotels", "booked")).await.unwrap());
        let operator = admin::Operator::new(db.pool.clone(), "ana");
        operator.bury_messages(&MessageFilter::new(), "closed", |_| ()).await.unwrap();
        let count = async |filter: DeadFilter| {
            let counted = admin::count_dead(&db.pool, &filter).await.unwrap().number;
            let (mut listed, mut after) = (0, None);
            while let Some(last) = admin::dead(&db.pool, &filter, after, 2).await.unwrap().last() {
                listed += admin::dead(&db.pool, &filter, after, 2).await.unwrap().len();
                after = Some(last.id);
            }
            assert_eq!(listed as u64, counted, "{filter}");
            counted
        };
        let new = DeadFilter::new;
        assert_eq!(count(new()).await, 5);
        assert_eq!(count(new().side(Side::Events)).await, 3);
        assert_eq!(count(new().side(Side::Messages)).await, 2);
        assert_eq!(count(new().code("POISON")).await, 2);
        assert_eq!(count(new().kind("order")).await, 2);
        assert_eq!(count(new().recipient(&to("order", 1))).await, 1);
        assert_eq!(count(new().source("flights")).await, 1);
        assert_eq!(count(new().event_type("booked").source("flights")).await, 0);
        let now = SystemTime::now();
        let hour = Duration::from_secs(3_600);
        assert_eq!(count(new().since(now - hour)).await, 5);
        assert_eq!(count(new().since(now + hour)).await, 0);
        assert_eq!(count(new().until(now - hour)).await, 0);
        assert_eq!(count(new().until(now + hour).since(now - hour)).await, 5);
        let message = &admin::dead(&db.pool, &new().source("flights"), None, 1).await.unwrap()[0];
        assert_eq!((message.code.as_str(), message.reason.as_str()), (admin::BURIED, "closed"));
        let payload = admin::dead_value(&db.pool, message.id).await.unwrap().unwrap();
        assert_eq!(CloudEvent::decode(&payload).unwrap().event_type(), "departed");
        let same: outbox::DeadLetterId = message.id.to_string().parse().unwrap();
        assert_eq!(same, message.id);
        assert!("17".parse::<outbox::DeadLetterId>().unwrap_err().to_string().contains("<shard>-<uuid>"));
    }
}
