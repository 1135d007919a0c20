//! Rows that an emitter claims: after a failed send, after a crash of another process, and behind a full queue.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::Transport;
use eventbox::emitter::{DurableEmitter, Expiry, Handover, Retain};
use eventbox::outbox;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use tonic::{Code, Status};

use super::support::{
    DEAD, Emits, Fake, OUTBOX, STOP, all_ok, builder, emptied, event, leave, leave_in, of, ok, payload, quick, started,
};
use crate::support::{SOON, eventually, on_every_engine};

/// A transport that takes 125 ms for each request.
struct Slow;

#[async_trait::async_trait]
impl Transport for Slow {
    async fn publish_batch(&self, batch: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        tokio::time::sleep(Duration::from_millis(125)).await;
        Ok(all_ok(batch))
    }

    async fn publish(&self, event: &Wire, _: Duration) -> Result<PublishResponse, Status> {
        Ok(PublishResponse { results: vec![ok(event)] })
    }
}

on_every_engine! {
    /// The emitter sends an event again whose first sends failed, until the server accepts it.
    async fn a_failed_send_is_retried_until_it_succeeds(db) {
        let fake =
            Fake::new(|call, batch| if call == 0 { Err(Status::unavailable("once")) } else { Ok(all_ok(batch)) });
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emitter.publish(event("x")).await.unwrap();
        emptied(db).await;
        assert!(fake.calls() >= 2);
        let stats = emitter.stats();
        assert_eq!((stats.sent_fresh, stats.sent_again, stats.failed_attempts), (0, 1, 1));
        emitter.stop(STOP).await;

        let fake =
            Fake::new(|call, batch| if call < 2 { Err(Status::unavailable("twice")) } else { Ok(all_ok(batch)) });
        let emitter = started(&db.pool, &fake, |config| config.batch.batch_size = NonZeroUsize::MIN).await;
        emitter.publish(event("x")).await.unwrap();
        emitter.publish(event("y")).await.unwrap();
        emptied(db).await;
        assert!(fake.calls() >= 4);
        emitter.stop(STOP).await;
    }

    /// The emitter claims and delivers a due row that another process left in the outbox.
    async fn a_row_of_another_process_is_delivered(db) {
        leave(db, event("left behind")).await;
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emptied(db).await;
        assert_eq!(fake.events().iter().map(payload).collect::<Vec<_>>(), ["left behind"]);
        emitter.stop(STOP).await;
    }

    /// Rows that the server always refuses do not delay the rows behind them, though each claim takes two rows only.
    async fn refused_rows_do_not_delay_the_rows_behind_them(db) {
        for name in ["poison 1", "poison 2", "good 1", "good 2", "good 3"] {
            let _ = leave_in(db, event(name)).await;
        }
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let fake = Fake::new(|_, batch| {
            if payload(&batch.events[0]).starts_with("poison") {
                Err(Status::internal("poison"))
            } else {
                Ok(all_ok(batch))
            }
        });
        let emitter = started(&db.pool, &fake, |config| {
            config.retransmit_batch_size = NonZeroUsize::new(2).unwrap();
            config.batch.batch_size = NonZeroUsize::MIN;
        }).await;
        eventually(SOON, async || db.count(OUTBOX).await == 2).await;
        let poison = async || fake.events().iter().filter(|event| payload(event).starts_with("poison")).count() >= 4;
        eventually(SOON, poison).await;
        assert_eq!(db.count(OUTBOX).await, 2);
        // A delivery counts once the statement that deletes its row has returned.
        eventually(SOON, async || emitter.stats().delivered == 3).await;
        emitter.stop(STOP).await;
    }

    /// Rows with the same creation time, claimed two at a time, are each claimed once.
    async fn rows_of_the_same_time_are_each_claimed_once(db) {
        for name in 0..6 {
            let _ = leave_in(db, event(name)).await;
        }
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0, created_at_us = 7").await;
        let fake = Fake::ok();
        let emitter =
            started(&db.pool, &fake, |config| config.retransmit_batch_size = NonZeroUsize::new(2).unwrap()).await;
        emptied(db).await;
        let mut payloads: Vec<_> = fake.events().iter().map(payload).collect();
        payloads.sort();
        assert_eq!(payloads, ["0", "1", "2", "3", "4", "5"]);
        // A delivery counts once the statement that deletes its row has returned.
        eventually(SOON, async || emitter.stats().delivered == 6).await;
        assert_eq!(emitter.stats().sent_again, 6, "the claim after the last finds nothing");
        emitter.stop(STOP).await;
    }

    /// All rows whose first send failed are delivered once the server recovers, by batches and not by the unary call.
    async fn after_a_failure_all_rows_recover(db) {
        let fake = Fake::failing(Code::Unavailable);
        let emitter = started(&db.pool, &fake, |config| config.batch.batch_size = NonZeroUsize::MIN).await;
        futures_util::future::try_join_all((0..5).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || fake.calls() >= 5).await;
        assert_eq!(db.count(OUTBOX).await, 5);
        fake.become_ok();
        emptied(db).await;
        assert!(fake.calls() >= 10 && fake.unary().is_empty());
        emitter.stop(STOP).await;
    }

    /// The emitter never sends a row that is in flight, even with sends that last nearly as long as a claim.
    async fn a_row_in_flight_is_not_sent_again(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.publish_timeout = Duration::from_millis(400);
            config.claim_ttl = Duration::from_millis(450);
            config.batch.batch_size = NonZeroUsize::MIN;
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
        }).await;
        fake.set_open(false);
        emitter.publish(event("slow")).await.unwrap();
        eventually(SOON, async || fake.calls() == 1).await;
        emitter.publish(event("behind it")).await.unwrap();
        // Each request ends by its deadline, before the claim of its row ends. The row is claimed again after that.
        eventually(SOON, async || {
            fake.calls() >= 3 && db.number("SELECT CAST(max(attempts) AS BIGINT) FROM eventbox_outbox").await >= 3
        })
        .await;
        fake.set_open(true);
        emptied(db).await;
        assert_eq!(fake.most_concurrent.load(std::sync::atomic::Ordering::SeqCst), 1);
        let stats = emitter.stats();
        assert_eq!(stats.sent_fresh + stats.sent_again, 2, "{stats:?}");
        emitter.stop(STOP).await;
    }

    /// Rows that find the queue full are sent from memory when the queue has room, without another claim.
    async fn a_row_that_finds_the_queue_full_is_sent_from_memory(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.message_buffer = NonZeroUsize::MIN;
            config.batch.batch_size = NonZeroUsize::MIN;
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
        }).await;
        // On a slow machine a row may wait too long in memory, so one burst without another claim is enough.
        eventually(2 * SOON, async || {
            let (again, mut left) = (emitter.stats().sent_again, 0);
            fake.set_open(false);
            for name in 0..10 {
                let stored = leave_in(db, event(name)).await;
                left += usize::from(emitter.deliver(stored) == Handover::LeftWaiting);
            }
            assert!(left > 0);
            fake.set_open(true);
            emptied(db).await;
            emitter.stats().sent_again == again
        }).await;
        emitter.stop(STOP).await;
    }

    /// Rows that wait for room when the emitter stops are due at once, so that another host sends them.
    async fn a_row_that_waits_for_room_at_a_stop_is_due_at_once(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.message_buffer = NonZeroUsize::MIN;
            config.batch.batch_size = NonZeroUsize::MIN;
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
        }).await;
        for name in 0..10 {
            let stored = leave_in(db, event(name)).await;
            let _ = emitter.deliver(stored);
        }
        emitter.stop(Duration::from_millis(500)).await;
        let released = "SELECT count(*) FROM eventbox_outbox WHERE last_code = 'message buffer is full'";
        assert!(db.number(released).await > 0);
        fake.set_open(true);
    }

    /// Rows handed to `deliver` while the queue is full are sent as soon as there is room, from memory or after another
    /// claim, and not when the claim of their insert ends.
    async fn a_row_that_finds_the_queue_full_is_due_at_once(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.message_buffer = NonZeroUsize::MIN;
            config.batch.batch_size = NonZeroUsize::MIN;
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
        }).await;
        let mut left = 0;
        for name in 0..10 {
            let stored = leave_in(db, event(name)).await;
            left += usize::from(emitter.deliver(stored) == Handover::LeftWaiting);
        }
        assert!(left > 0);
        fake.set_open(true);
        let begun = std::time::Instant::now();
        emptied(db).await;
        assert!(begun.elapsed() < outbox::FIRST_CLAIM_TTL / 2, "{:?}", begun.elapsed());
        assert_eq!(fake.events().iter().map(payload).collect::<BTreeSet<_>>().len(), 10);
        emitter.stop(STOP).await;
    }

    /// The emitter claims no more rows than the server accepts within the claims.
    /// Otherwise rows would wait in memory past their claims, be claimed again, and count attempts.
    async fn rows_of_a_slow_server_are_not_claimed_twice(db) {
        const ROWS: usize = 6_000;
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        for name in 0..ROWS {
            let _ = Engine::publish_in(&mut tx, event(name)).await;
        }
        tx.commit().await.unwrap();
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let transport: Arc<dyn Transport> = Arc::new(Slow);
        let emitter = DurableEmitter::builder(db.pool.clone(), transport).configure(quick).configure(|config| {
            // Two seconds of each claim are left for waiting. The server accepts 3,200 rows in that time.
            // The buffer has a place for all of them.
            config.claim_ttl = config.batch.publish_timeout + Duration::from_secs(2);
            config.retain_delivered = Some(Retain::default().with_purge_interval(Duration::from_secs(3_600)));
        });
        let emitter = emitter.start().await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!((emitter.stats().sent_again, emitter.stats().rescheduled), (ROWS as u64, 0));
        let again = db.number("SELECT count(*) FROM eventbox_outbox WHERE attempts > 2").await;
        // A slow machine may delay some of the rows.
        assert!(again < 500, "{again} rows were claimed more than once");
        emitter.stop(STOP).await;
    }

    /// A full queue delays delivery and never an emit.
    /// Rows without a place in the queue are due as soon as a place is free, and not when their claim ends.
    async fn a_full_queue_leaves_rows_to_the_retransmission(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.message_buffer = NonZeroUsize::MIN;
            config.batch.batch_size = NonZeroUsize::MIN;
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
        }).await;
        let published = (0..10).map(|name| emitter.publish(of("flights", "x", name)));
        futures_util::future::try_join_all(published).await.unwrap();
        assert!(emitter.stats().left_waiting > 0);
        fake.set_open(true);
        let begun = std::time::Instant::now();
        emptied(db).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "a claim is 5.5 s: {:?}", begun.elapsed());
        assert_eq!(fake.events().iter().map(payload).collect::<BTreeSet<_>>().len(), 10);
        emitter.stop(STOP).await;
    }

    /// An emitter that is a plugin sends a row once; it never claims due rows and expires none.
    async fn a_plugin_neither_retransmits_nor_expires(db) {
        let fake = Fake::failing(Code::Unavailable);
        let expiry = Expiry::default().with_ttl(Duration::from_millis(20)).with_interval(Duration::from_millis(5));
        let emitter =
            builder(&db.pool, &fake).configure(|config| config.expiry = Some(expiry)).plugin().start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || emitter.stats().rescheduled == 1).await;
        let old = "SELECT count(*) FROM eventbox_outbox
                   WHERE created_at_us < (SELECT max(created_at_us) FROM eventbox_outbox)";
        eventually(SOON, async || {
            // Ten rows that are older than the newest one prove that many ticks of the loops have passed.
            let _ = leave_in(db, event("clock")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            db.number(old).await >= 10
        }).await;
        assert_eq!((fake.calls(), db.count(DEAD).await), (1, 0));
        emitter.stop(STOP).await;
    }
}
