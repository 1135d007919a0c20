//! Promises that no other test guards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbox::BoxError;
use eventbox::chip;
use eventbox::chip::{Auth, GrpcConfig, GrpcTransport, RotatingAuth, Signer, Transport};
use eventbox::emitter::{DurableEmitter, Expiry, Handover, MAX_FALLBACKS, MetricsConfig};
use eventbox::outbox;
use eventbox::outbox::FIRST_CLAIM_TTL;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::support::{DEAD, Emits, Fake, GrpcServer, OUTBOX, STOP, event, ok, quick, refused, started};
use crate::support::recorded::recorded;
use crate::support::{SOON, TestDb, eventually, on_every_engine};

async fn stored<B: Emits>(db: &TestDb<B>) -> outbox::Stored {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    let stored = B::publish_in(&mut tx, event("x")).await;
    tx.commit().await.unwrap();
    stored
}

/// A transport that refuses every batch, and whose unary calls hang.
struct Hanging {
    open: watch::Sender<bool>,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Transport for Hanging {
    async fn publish_batch(&self, _: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        Err(Status::unavailable("scripted"))
    }

    async fn publish(&self, event: &Wire, _: Duration) -> Result<PublishResponse, Status> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(PublishResponse { results: vec![ok(event)] })
    }
}

/// A transport that decides by the payload, in batches of one event or in unary calls. The other way is unavailable.
struct Judge {
    by_unary: bool,
    refreshed: AtomicUsize,
}

impl Judge {
    fn judge(&self, event: &Wire) -> Result<PublishResponse, Status> {
        let results = match super::support::payload(event).as_str() {
            "invalid" => vec![refused(event, 1, "no subject")],
            "no schema" => vec![refused(event, 2, "register it")],
            "no argument" => return Err(Status::invalid_argument("never")),
            "late" => return Err(Status::deadline_exceeded("slow")),
            "old credentials" if self.refreshed.load(Ordering::SeqCst) == 0 => {
                return Err(Status::unauthenticated("too old"));
            }
            _ => vec![ok(event)],
        };
        Ok(PublishResponse { results })
    }
}

#[async_trait]
impl Transport for Judge {
    async fn publish_batch(&self, batch: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        if self.by_unary { Err(Status::unavailable("by the other way")) } else { self.judge(&batch.events[0]) }
    }

    async fn publish(&self, event: &Wire, _: Duration) -> Result<PublishResponse, Status> {
        if self.by_unary { self.judge(event) } else { Err(Status::unavailable("by the other way")) }
    }

    async fn refresh_credentials(&self) {
        self.refreshed.fetch_add(1, Ordering::SeqCst);
    }
}

on_every_engine! {
    /// The fallback by the unary call treats each outcome as a batch does.
    async fn a_fallback_treats_outcomes_as_a_batch_does(db) {
        for by_unary in [false, true] {
            let judge = Arc::new(Judge { by_unary, refreshed: AtomicUsize::new(0) });
            let transport: Arc<dyn Transport> = Arc::clone(&judge) as _;
            let emitter = DurableEmitter::builder(db.pool.clone(), transport).configure(quick).configure(|config| {
                (config.fallback, config.retransmit) = (true, false);
                config.batch.batch_size = std::num::NonZeroUsize::MIN;
            });
            let emitter = emitter.start().await.unwrap();
            for name in ["good", "invalid", "no schema", "no argument", "late", "old credentials"] {
                emitter.publish(event(name)).await.unwrap();
            }
            eventually(SOON, async || {
                let stats = emitter.stats();
                (stats.delivered, stats.dead_lettered, stats.rescheduled) == (2, 2, 2)
            }).await;
            emitter.stop(STOP).await;
            let mut codes: Vec<_> =
                outbox::dead_letters(&db.pool, None, 10).await.unwrap().into_iter().map(|dead| dead.code).collect();
            codes.sort();
            assert_eq!(codes, ["InvalidArgument", "PUBLISH_ERROR_CODE_VALIDATION_FAILED"], "by_unary: {by_unary}");
            for code in ["PUBLISH_ERROR_CODE_SCHEMA_MISSING", "DeadlineExceeded"] {
                let waits = format!("SELECT count(*) FROM eventbox_outbox WHERE last_code = '{code}'");
                assert_eq!(db.number(waits).await, 1, "{code}, by_unary: {by_unary}");
            }
            assert_eq!(judge.refreshed.load(Ordering::SeqCst), 1);
            db.run("DELETE FROM eventbox_outbox").await;
            db.run("DELETE FROM eventbox_dead_letter").await;
        }
    }

    /// A row that is claimed again while its message is in flight is not sent a second time.
    async fn a_row_in_flight_is_not_sent_twice_by_one_process(db) {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || fake.calls() == 1).await;
        for claims in 2..5 {
            db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
            let claimed = "SELECT CAST(max(attempts) AS BIGINT) FROM eventbox_outbox";
            eventually(SOON, async || db.number(claimed).await == claims).await;
        }
        // The event queued behind it is sent in another request, which does not contain the row.
        emitter.publish(event("y")).await.unwrap();
        eventually(SOON, async || fake.calls() == 2).await;
        assert_eq!(fake.sizes(), [1, 1]);
        fake.set_open(true);
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(fake.events().len(), 2);
        emitter.stop(STOP).await;
    }

    /// The emitter does not send a message whose request could end after its claim.
    async fn no_request_ends_after_its_claim(db) {
        let fake = Fake::ok();
        let hurry = FIRST_CLAIM_TTL - Duration::from_millis(20);
        let emitter = started(&db.pool, &fake, |config| {
            config.retransmit = false;
            (config.batch.publish_timeout, config.claim_ttl) = (hurry, FIRST_CLAIM_TTL);
        }).await;
        let late = stored(db).await;
        let begun = Instant::now();
        eventually(SOON, async || begun.elapsed() > Duration::from_millis(40)).await;
        assert_eq!(emitter.deliver(late), Handover::Queued);
        let buffer = emitter.client().config().message_buffer.get();
        eventually(SOON, async || emitter.client().free() == buffer).await;
        let report = emitter.stop(STOP).await;
        assert_eq!((fake.calls(), db.count(OUTBOX).await, report.left), (0, 1, 1));
    }

    /// An emitter whose claim was replaced by another claim does not reschedule the row.
    async fn only_the_current_claim_reschedules_a_row(db) {
        let fake = Fake::failing(Code::Unavailable);
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| config.retransmit = false).await;
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || fake.calls() == 1).await;
        db.run("UPDATE eventbox_outbox SET attempts = 7, next_attempt_at_us = 4000000000000000").await;
        fake.set_open(true);
        emitter.stop(STOP).await;
        assert_eq!((emitter.stats().failed_attempts, emitter.stats().rescheduled), (1, 0));
        let untouched = "SELECT count(*) FROM eventbox_outbox
            WHERE attempts = 7 AND next_attempt_at_us = 4000000000000000 AND last_code IS NULL";
        assert_eq!(db.number(untouched).await, 1);
    }

    async fn fallbacks_in_flight_are_bounded(db) {
        let server =
            Arc::new(Hanging { open: watch::Sender::new(false), now: AtomicUsize::new(0), most: AtomicUsize::new(0) });
        let transport: Arc<dyn Transport> = Arc::clone(&server) as _;
        let emitter = DurableEmitter::builder(db.pool.clone(), transport).configure(quick).configure(|config| {
            (config.fallback, config.retransmit) = (true, false);
        });
        let emitter = emitter.start().await.unwrap();
        futures_util::future::try_join_all((0..50).map(|name| emitter.publish(event(name)))).await.unwrap();
        let others = 50 - u64::try_from(MAX_FALLBACKS).unwrap();
        eventually(SOON, async || emitter.stats().rescheduled == others).await;
        assert_eq!(server.now.load(Ordering::SeqCst), MAX_FALLBACKS);
        server.open.send_replace(true);
        eventually(SOON, async || emitter.stats().delivered == 50 - others).await;
        assert_eq!(server.most.load(Ordering::SeqCst), MAX_FALLBACKS);
        emitter.stop(STOP).await;
    }

    /// No fallback after a deadline: the server may still process the message, and a fallback would be a second copy.
    async fn a_deadline_causes_no_fallback(db) {
        for code in [Code::DeadlineExceeded, Code::ResourceExhausted] {
            let fake = Fake::failing(code);
            let emitter = started(&db.pool, &fake, |config| (config.fallback, config.retransmit) = (true, false)).await;
            emitter.publish(event("x")).await.unwrap();
            eventually(SOON, async || emitter.stats().rescheduled == 1).await;
            emitter.stop(STOP).await;
            assert!(fake.unary().is_empty());
        }
    }

    async fn dead_letters_are_removed_by_age_or_by_request(db) {
        let fake = Fake::failing(Code::InvalidArgument);
        let emitter = started(&db.pool, &fake, |_| {}).await;
        for name in 0..3 {
            emitter.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || db.count(DEAD).await == 3).await;
        let dead = outbox::dead_letters(&db.pool, None, 10).await.unwrap();
        assert_eq!(outbox::delete_dead_letters(&db.pool, &[dead[1].id]).await.unwrap(), 1);
        let left: Vec<_> = outbox::dead_letters(&db.pool, None, 10).await.unwrap().iter().map(|dead| dead.id).collect();
        assert_eq!(left, [dead[0].id, dead[2].id]);
        emitter.stop(STOP).await;

        let retention = |retention| {
            let expiry = Expiry::default().with_interval(Duration::from_millis(5));
            started(&db.pool, &fake, move |config| {
                (config.expiry, config.dead_letter_retention) = (Some(expiry), Some(retention));
            })
        };
        let long = retention(Duration::from_secs(3_600)).await;
        db.run(
            "UPDATE eventbox_dead_letter SET dead_at_us = 0
             WHERE id IN (SELECT id FROM eventbox_dead_letter ORDER BY id LIMIT 1)",
        )
        .await;
        eventually(SOON, async || db.count(DEAD).await == 1).await;
        long.stop(STOP).await;
        assert_eq!(db.count(DEAD).await, 1, "the younger dead letter stays");
        let short = retention(Duration::from_millis(1)).await;
        eventually(SOON, async || db.count(DEAD).await == 0).await;
        short.stop(STOP).await;
    }
}

/// The client does not send an expired header when the signer fails to make a new one.
#[tokio::test]
async fn stale_credentials_are_not_sent() {
    struct Broken;
    #[async_trait]
    impl Signer for Broken {
        async fn sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, BoxError> {
            Err("the key is gone".into())
        }
    }
    let server = GrpcServer::start(Fake::ok()).await;
    let initial = [("X-Beholder-Node-Auth-Token".to_owned(), "old".to_owned())].into();
    let ttl = Duration::from_secs(600);
    let auth = Auth::Rotating(Arc::new(RotatingAuth::new([7; 32], ttl, Arc::new(Broken), initial)));
    let transport = GrpcTransport::new(&GrpcConfig::new(server.endpoint()).insecure().auth(auth)).unwrap();
    transport.ping(SOON).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(ttl + Duration::from_secs(1)).await;
    tokio::time::resume();
    for _ in 0..3 {
        let refused = transport.ping(SOON).await.unwrap_err();
        assert!(refused.message().contains("the key is gone"), "{refused}");
    }
    assert_eq!(server.seen.lock().unwrap().len(), 1);
    server.stop().await;
}

#[test]
fn a_request_of_which_some_events_failed_is_partial() {
    let recorded = recorded(async |_| {
        let fake = Fake::new(|_, batch| {
            let results = batch.events.iter().enumerate();
            let results = results.map(|(index, event)| if index == 0 { refused(event, 2, "") } else { ok(event) });
            Ok(PublishResponse { results: results.collect() })
        });
        let client = chip::BatchClient::new(fake as Arc<dyn Transport>, chip::BatchConfig::default()).unwrap();
        client.queue(event("x"), None).unwrap();
        client.queue(event("y"), None).unwrap();
        client.start();
        client.stop(STOP).await;
    });
    let requests = |status| recorded.total("chip_ingress.batch.send_requests_total", &[("status", status)]);
    assert_eq!((requests("partial"), requests("success"), requests("failure")), (1.0, 0.0, 0.0));
}

#[test]
fn the_gauges_show_the_contents_of_the_outbox() {
    let recorded = recorded(async |recording| {
        let directory = tempfile::tempdir().unwrap();
        let options = eventbox::sqlite_options(directory.path().join("gauges.sqlite3"));
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        eventbox::migrate(&pool).await.unwrap();
        let fake = Fake::failing(Code::Unauthenticated);
        let emitter = started(&pool, &fake, |config| {
            config.batch.breaker = Some(chip::BreakerConfig::default());
            config.expiry = Some(Expiry::default());
            let metrics = MetricsConfig::default().with_poll_interval(Duration::from_millis(5));
            let metrics = metrics.with_near_expiry_lead(Duration::from_secs(3_599));
            config.metrics = Some(metrics.with_max_queue_payload_bytes(1_000_000));
        })
        .await;
        for name in 0..3 {
            emitter.publish(event(name)).await.unwrap();
        }
        // Reading a gauge clears its value, so the test polls each gauge until its next observation.
        let becomes = async |name: &str, right: &dyn Fn(f64) -> bool| {
            eventually(SOON, async || right(recording.total(&format!("durable_emitter.{name}")))).await;
        };
        becomes("queue.depth", &|depth| depth == 3.0).await;
        becomes("breaker.open", &|open| open == 1.0).await;
        becomes("queue.oldest_pending_age_seconds", &|age| age > 0.0 && age < 30.0).await;
        becomes("queue.payload_bytes", &|bytes| bytes > 300.0 && bytes < 3_000.0).await;
        becomes("queue.capacity_usage_ratio", &|ratio| ratio > 0.000_3 && ratio < 0.003).await;
        becomes("queue.ttl_budget_seconds", &|budget| budget > 3_500.0 && budget < 3_600.0).await;
        // Rows older than one second have less than 3,599 s left of their hour.
        becomes("queue.near_ttl", &|rows| rows == 3.0).await;
        becomes("process.memory.heap_inuse_bytes", &|bytes| bytes > 1_000_000.0).await;
        sqlx::query("DELETE FROM eventbox_outbox").execute(&pool).await.unwrap();
        becomes("queue.depth_max", &|rows| rows == 3.0).await;
        emitter.stop(STOP).await;
    });
    assert!(recorded.total("durable_emitter.breaker.opened_total", &[("code", "Unauthenticated")]) >= 1.0);
}
