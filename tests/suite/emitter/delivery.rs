//! The way of a message from the outbox to the server, and the fate of its row, on both engines.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::CloudEvent;
use eventbox::chip;
use eventbox::emitter::{self, Expiry, Handover, Retain};
use eventbox::outbox;
use eventbox::outbox::IdempotencyKey;
use eventbox::proto::chipingress::pb::PublishResponse;
use tonic::Code;

use super::support::{
    DEAD, Emits, Fake, OUTBOX, STOP, builder, emptied, event, leave, leave_in, ok, payload, refused, started, text,
};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    /// The emitter sends a stored event once and deletes its row, with or without retransmission.
    async fn a_published_event_is_delivered_and_its_row_deleted(db) {
        for host in [true, false] {
            let fake = Fake::ok();
            let emitter = started(&db.pool, &fake, |config| config.retransmit = host).await;
            emitter.publish(event("x")).await.unwrap();
            assert!(emitter.flush(SOON).await.unwrap());
            assert_eq!((fake.calls(), db.count(OUTBOX).await), (1, 0));
            assert_eq!(text(&fake.events()[0], "emitter").as_deref(), Some("DurableEmitter"));
            let stats = emitter.stats();
            assert_eq!((stats.published, stats.sent_fresh, stats.sent_again, stats.delivered), (1, 1, 0, 1));
            assert!(emitter.stop(STOP).await.complete);
        }
    }

    /// A row whose send failed stays in the outbox, also after the stop of the emitter.
    async fn a_failed_send_leaves_the_row(db) {
        let fake = Fake::failing(Code::Unavailable);
        let emitter = started(&db.pool, &fake, |config| config.retransmit = false).await;
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || emitter.stats().rescheduled == 1).await;
        assert_eq!((fake.calls(), db.count(OUTBOX).await), (1, 1));
        emitter.stop(STOP).await;
        assert_eq!((fake.calls(), db.count(OUTBOX).await), (1, 1));
    }

    /// Attributes without a source or a type do not build an event, and nothing is stored.
    async fn an_event_without_attributes_is_refused(db) {
        let attributes = eventbox::cloudevent::Attributes::default();
        let error = CloudEvent::from_attributes(&attributes, "x").unwrap_err();
        assert_eq!(error.to_string(), "source/beholder_domain not found in provided key/value attributes");
        let error = CloudEvent::from_attributes(&attributes.with("source", "flights"), "x").unwrap_err();
        assert_eq!(error.to_string(), "type/beholder_entity not found in provided key/value attributes");
        assert_eq!(db.count(OUTBOX).await, 0);
    }

    /// Fifty concurrent emits become fifty deliveries, each of a payload of its own.
    async fn fifty_published_events_are_delivered_once(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        let emits = (0..50).map(|name| emitter.publish(event(name)));
        futures_util::future::try_join_all(emits).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        let payloads: BTreeSet<_> = fake.events().iter().map(payload).collect();
        assert_eq!((fake.events().len(), payloads.len()), (50, 50));
        emitter.stop(STOP).await;
    }

    /// A row past its time to live becomes a dead letter. A replay of the dead letter delivers it, with its id and key.
    async fn an_expired_row_becomes_a_dead_letter(db) {
        let fake = Fake::failing(Code::Internal);
        let expiry = Expiry::default().with_ttl(Duration::from_millis(50)).with_interval(Duration::from_millis(10));
        let emitter = started(&db.pool, &fake, |config| config.expiry = Some(expiry)).await;
        emitter.publish(event("x")).await.unwrap();
        emptied(db).await;
        eventually(SOON, async || emitter.stats().expired == 1).await;
        let [dead] = outbox::dead_letters(&db.pool, None, 10).await.unwrap().try_into().unwrap();
        assert_eq!(
            (dead.code.as_str(), dead.source.as_str(), dead.event_type.as_str()),
            ("EXPIRED", "flights", "flight.departed")
        );
        let (id, key) =
            (dead.event().unwrap().id().to_owned(), dead.event().unwrap().idempotency_key().unwrap().to_owned());
        emitter.stop(STOP).await;

        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        assert_eq!(outbox::replay_dead_letters(&db.pool, &[dead.id]).await.unwrap(), 1);
        assert!(emitter.flush(SOON).await.unwrap());
        let [sent] = fake.events().try_into().unwrap();
        assert_eq!((sent.id.clone(), text(&sent, "idempotencykey").unwrap()), (id, key));
        assert_eq!(db.count(DEAD).await, 0);
        emitter.stop(STOP).await;
    }

    /// One statement deletes the rows of several deliveries.
    async fn outcomes_share_a_delete(db) {
        let counts = Arc::new(Mutex::new(Vec::new()));
        let fake = Fake::ok();
        let seen = Arc::clone(&counts);
        let emitter = started(&db.pool, &fake, |config| {
            (config.delete_batch_size, config.delete_flush_interval) = (100, Duration::from_millis(200));
            config.hooks.on_batch_delete = Some(Arc::new(move |_, count| seen.lock().unwrap().push(count)));
        }).await;
        futures_util::future::try_join_all((0..25).map(|name| emitter.publish(event(name)))).await.unwrap();
        emptied(db).await;
        eventually(SOON, async || counts.lock().unwrap().iter().sum::<usize>() == 25).await;
        let counts = counts.lock().unwrap().clone();
        assert!(counts.len() < 25 && counts.iter().any(|count| *count > 1), "{counts:?}");
        emitter.stop(STOP).await;
    }

    /// A stop deletes the rows of delivered messages whose deletion is still queued.
    async fn a_stop_deletes_the_rows_of_delivered_messages(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| {
            (config.delete_batch_size, config.delete_flush_interval) = (100, Duration::from_secs(3600));
        }).await;
        futures_util::future::try_join_all((0..5).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || emitter.stats().sent_fresh == 5).await;
        assert_eq!(db.count(OUTBOX).await, 5);
        assert!(emitter.stop(STOP).await.complete);
        assert_eq!(db.count(OUTBOX).await, 0);
    }

    /// The emitter calls each hook once per event. A hook that panics harms nothing.
    async fn hooks_are_called_once_per_event(db) {
        let calls = Arc::new(Mutex::new((Vec::new(), Vec::new(), 0)));
        let fake = Fake::new(|_, batch| {
            Ok(PublishResponse {
                results: batch
                    .events
                    .iter()
                    .map(|event| if payload(event) == "bad" { refused(event, 0, "no") } else { ok(event) })
                    .collect(),
            })
        });
        let (inserts, publishes, deletes) = (Arc::clone(&calls), Arc::clone(&calls), Arc::clone(&calls));
        let emitter = started(&db.pool, &fake, |config| {
            config.retransmit = false;
            config.delete_batch_size = 0;
            config.hooks.on_insert = Some(Arc::new(move |_, error| {
                assert!(error.is_none());
                inserts.lock().unwrap().2 += 1;
                panic!("a hook that panics harms nothing");
            }));
            config.hooks.on_batch_publish = Some(Arc::new(move |_, count, error| {
                assert_eq!(count, 1);
                publishes.lock().unwrap().0.push(error.is_none());
            }));
            config.hooks.on_batch_delete = Some(Arc::new(move |_, count| deletes.lock().unwrap().1.push(count)));
        }).await;
        for name in ["a", "b", "bad"] {
            emitter.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || emitter.stats().delivered == 2 && emitter.stats().rescheduled == 1).await;
        emitter.stop(STOP).await;
        let (mut published, deleted, inserted) = calls.lock().unwrap().clone();
        published.sort();
        assert_eq!((published, deleted, inserted), (vec![false, true, true], vec![1, 1], 3));
    }

    /// The idempotency key is unique unless the caller sets one or the configuration asks for the content hash.
    async fn every_event_has_an_idempotency_key(db) {
        let keys = async |choice| {
            let fake = Fake::ok();
            let emitter = started(&db.pool, &fake, |config| config.idempotency_key = choice).await;
            for _ in 0..2 {
                emitter.publish(event("same")).await.unwrap();
            }
            let own = CloudEvent::builder("flights", "x").idempotency_key("mine").build().unwrap();
            emitter.publish(own).await.unwrap();
            assert!(emitter.flush(SOON).await.unwrap());
            emitter.stop(STOP).await;
            fake.events().iter().map(|event| text(event, "idempotencykey").unwrap()).collect::<Vec<_>>()
        };
        let [first, second, own] = keys(IdempotencyKey::Unique).await.try_into().unwrap();
        assert!(first != second && !first.is_empty());
        assert_eq!(own, "mine");
        let [first, second, _] = keys(IdempotencyKey::ContentHash).await.try_into().unwrap();
        assert_eq!((&first, &second), (&event("same").content_hash(), &event("same").content_hash()));
    }

    /// With `fallback`, an event whose batch failed is sent by the unary call. If that fails too, the row stays.
    async fn a_fallback_sends_a_failed_event_once_more(db) {
        let fake = Fake::failing(Code::Unavailable);
        let emitter = started(&db.pool, &fake, |config| (config.fallback, config.retransmit) = (true, false)).await;
        emitter.publish(event("x")).await.unwrap();
        emptied(db).await;
        let [sent] = fake.unary().try_into().unwrap();
        assert_eq!(text(&sent, "seqnum").as_deref(), Some("2"), "it goes through the same counter");
        fake.fail_unary(Code::Unavailable);
        emitter.publish(event("y")).await.unwrap();
        eventually(SOON, async || emitter.stats().rescheduled == 1).await;
        assert_eq!((fake.unary().len(), db.count(OUTBOX).await), (2, 1));
        emitter.stop(STOP).await;
        assert_eq!(fake.closed.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    /// A stop sends every queued message and deletes its row.
    async fn a_stop_sends_and_settles_all_that_is_queued(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.batch.batch_interval = Duration::from_secs(3600)).await;
        futures_util::future::try_join_all((0..1_000).map(|name| emitter.publish(event(name)))).await.unwrap();
        let report = emitter.stop(STOP).await;
        assert!(report.complete && report.left == 0, "{report:?}");
        assert_eq!((fake.events().len(), db.count(OUTBOX).await), (1_000, 0));
    }

    /// A stop returns by its deadline while the server hangs. Responses after the stop change no row.
    async fn a_stop_returns_by_its_deadline_and_late_answers_are_harmless(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| config.batch.batch_size = NonZeroUsize::new(5).unwrap()).await;
        futures_util::future::try_join_all((0..50).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || fake.calls() > 0).await;
        let started = std::time::Instant::now();
        let report = emitter.stop(Duration::from_millis(300)).await;
        assert!(
            !report.complete && started.elapsed() < Duration::from_secs(5),
            "{report:?} after {:?}",
            started.elapsed()
        );
        fake.set_open(true);
        assert_eq!((emitter.stats().delivered, db.count(OUTBOX).await), (0, 50));
    }

    /// A permanent refusal makes a dead letter at the first attempt. A missing schema is retried with slow back-off.
    async fn permanent_failures_become_dead_letters_and_slow_failures_wait(db) {
        let tried_at = Arc::new(Mutex::new(Vec::new()));
        let tries = Arc::clone(&tried_at);
        let fake = Fake::new(move |_, batch| Ok(PublishResponse {
            results: batch.events.iter().inspect(|event| if payload(event) == "no schema" {
                tries.lock().unwrap().push(std::time::Instant::now());
            }).map(|event| match payload(event).as_str() {
                "invalid" => refused(event, 1, "no subject"),
                "unencodable" => refused(event, 3, "not protobuf"),
                "no schema" => refused(event, 2, "register it"),
                _ => ok(event),
            }).collect(),
        }));
        let emitter = started(&db.pool, &fake, |config| {
            config.slow_backoff = emitter::Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        }).await;
        for name in ["invalid", "unencodable", "no schema", "good"] {
            emitter.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || db.count(DEAD).await == 2 && db.count(OUTBOX).await == 1).await;
        let mut dead = outbox::dead_letters(&db.pool, None, 10).await.unwrap();
        dead.sort_by(|a, b| a.code.cmp(&b.code));
        assert_eq!((dead[1].code.as_str(), dead[1].attempts), ("PUBLISH_ERROR_CODE_VALIDATION_FAILED", 1));
        assert!(dead[1].reason.contains("no subject"));
        assert_eq!(dead[0].code, "PUBLISH_ERROR_CODE_ENCODE_ERROR");

        eventually(SOON, async || tried_at.lock().unwrap().len() >= 5).await;
        let gaps: Vec<_> = tried_at.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
        let least = (0..).map(|doublings| Duration::from_millis(10 << doublings));
        assert!(
            gaps.iter().zip(least).all(|(gap, least)| *gap >= least),
            "each wait is half of a step that doubles, or more: {gaps:?}"
        );
        assert!(db.number("SELECT CAST(attempts AS BIGINT) FROM eventbox_outbox").await >= 5);
        let code = "SELECT count(*) FROM eventbox_outbox WHERE last_code = 'PUBLISH_ERROR_CODE_SCHEMA_MISSING'";
        assert_eq!(db.number(code).await, 1);
        emitter.stop(STOP).await;
    }

    /// A row whose payload cannot be decoded becomes a dead letter without a send.
    async fn a_row_that_cannot_be_decoded_becomes_a_dead_letter_at_once(db) {
        leave(db, event("x")).await;
        db.run(if <Engine as sqlx::Database>::NAME == "SQLite" {
            "UPDATE eventbox_outbox SET payload = x'ff'"
        } else {
            "UPDATE eventbox_outbox SET payload = '\\xff'"
        }).await;
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emptied(db).await;
        let [dead] = outbox::dead_letters(&db.pool, None, 10).await.unwrap().try_into().unwrap();
        assert_eq!(dead.code, "UNDECODABLE");
        assert!(dead.event().is_err());
        assert_eq!(fake.calls(), 0);
        emitter.stop(STOP).await;
    }

    /// A running emitter delivers a new row from memory, before the row may be claimed.
    /// Without a running emitter the row waits in the outbox.
    async fn a_stored_row_is_delivered_from_memory(db) {
        let fake = Fake::ok();
        let emitter = builder(&db.pool, &fake).build().unwrap();
        let stored = leave_in(db, event("before the start")).await;
        assert_eq!(emitter.deliver(stored), Handover::LeftWaiting);
        emitter.start().await.unwrap();
        let stored = leave_in(db, event("x")).await;
        let id = stored.event().id().to_owned();
        assert_eq!(emitter.deliver(stored), Handover::Queued);
        eventually(SOON, async || db.count(OUTBOX).await == 1).await;
        assert_eq!(fake.events().into_iter().map(|event| event.id).collect::<Vec<_>>(), [id]);
        emitter.stop(STOP).await;
    }

    /// A rolled back transaction publishes nothing.
    async fn a_message_of_a_rolled_back_transaction_is_not_sent(db) {
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        drop(Engine::publish_in(&mut tx, event("x")).await);
        tx.rollback().await.unwrap();
        assert_eq!(db.count(OUTBOX).await, 0);
    }

    /// With `retain_delivered`, delivered rows stay until the next purge, and are not sent again.
    async fn delivered_rows_can_be_retained(db) {
        let fake = Fake::ok();
        let retain = Retain::default().with_purge_interval(Duration::from_secs(3600));
        let emitter = started(&db.pool, &fake, |config| config.retain_delivered = Some(retain)).await;
        emitter.publish(event("x")).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE delivered_at_us > 0").await, 1);
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.total_rows, stats.payload_bytes), (0, 1, 0));
        emitter.stop(STOP).await;

        let retain = Retain::default().with_purge_interval(Duration::from_millis(5));
        let emitter = started(&db.pool, &fake, |config| config.retain_delivered = Some(retain)).await;
        emptied(db).await;
        assert_eq!(fake.calls(), 1, "it is not sent again");
        emitter.stop(STOP).await;
    }

    /// An open breaker stops sends and never emits. When the endpoint is back, the emitter delivers every row.
    async fn the_breaker_stops_sending_and_not_accepting(db) {
        let fake = Fake::failing(Code::Unimplemented);
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.breaker = Some(chip::BreakerConfig::default().with_cool_down(Duration::from_millis(300)));
            config.health_grace = Duration::from_millis(1);
        }).await;
        emitter.publish(event("opens it")).await.unwrap();
        eventually(SOON, async || emitter.client().breaker_state() != chip::BreakerState::Closed).await;
        let calls = fake.calls();
        for name in 0..20 {
            emitter.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || !emitter.health().is_healthy()).await;
        assert!(fake.calls() <= calls + 2, "{} calls after it opened", fake.calls() - calls);
        assert_eq!(db.count(OUTBOX).await, 21);
        fake.become_ok();
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(emitter.client().breaker_state(), chip::BreakerState::Closed);
        emitter.stop(STOP).await;
    }

    /// A delivery whose row became a dead letter meanwhile deletes the dead letter.
    async fn a_late_delivery_removes_the_dead_letter(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || fake.calls() == 1).await;
        let other = started(&db.pool, &Fake::ok(), |config| {
            let expiry = Expiry::default().with_ttl(Duration::from_micros(1));
            config.expiry = Some(expiry.with_interval(Duration::from_millis(5)));
        }).await;
        eventually(SOON, async || db.count(DEAD).await == 1).await;
        other.stop(STOP).await;
        fake.set_open(true);
        eventually(SOON, async || db.count(DEAD).await == 0).await;
        assert_eq!(db.count(OUTBOX).await, 0);
        emitter.stop(STOP).await;
    }
}
