//! The outcome of an event depends only on the server's response about this event, and not on its neighbours.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::chip;
use eventbox::chip::{
    BatchClient, BatchConfig, BreakerConfig, BreakerState, FLAP_OPENINGS, GrpcConfig, GrpcTransport, SendError,
    Transport,
};
use eventbox::emitter::{self, ATTEMPTS_CODE, Backoff};
use eventbox::outbox;
use prost::Message;
use tonic::{Code, Status};

use super::support::{DEAD, Fake, GrpcServer, OUTBOX, STOP, all_ok, event, payload, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Codes that may concern one event of a request or the whole destination.
const DOUBTFUL: [Code; 9] = [
    Code::Internal,
    Code::Unknown,
    Code::PermissionDenied,
    Code::NotFound,
    Code::Unimplemented,
    Code::DataLoss,
    Code::Aborted,
    Code::AlreadyExists,
    Code::Cancelled,
];

/// Codes that concern the request and never the destination.
const CERTAIN: [Code; 3] = [Code::InvalidArgument, Code::OutOfRange, Code::FailedPrecondition];

/// Returns a server that refuses every request that contains one of these events.
fn refusing(code: Code, bad: &'static [&'static str]) -> Arc<Fake> {
    Fake::new(move |_, batch| match batch.events.iter().any(|event| bad.contains(&payload(event).as_str())) {
        true => Err(Status::new(code, "scripted")),
        false => Ok(all_ok(batch)),
    })
}

/// Sends `events` events as one batch and returns the names of the failed ones.
async fn one_batch(fake: &Arc<Fake>, events: usize, change: impl FnOnce(&mut BatchConfig)) -> BTreeSet<String> {
    let mut config = BatchConfig::default();
    (config.batch_size, config.batch_interval) = (NonZeroUsize::new(events).unwrap(), Duration::from_secs(3_600));
    config.breaker = Some(BreakerConfig::default());
    change(&mut config);
    let client = BatchClient::new(Arc::clone(fake) as Arc<dyn Transport>, config).unwrap();
    let failed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for name in 0..events {
        let failed = Arc::clone(&failed);
        let callback = Box::new(move |sent: chip::SendOutcome| {
            if sent.result.is_err() {
                failed.lock().unwrap().insert(name.to_string());
            }
        });
        client.queue(event(name), Some(callback)).unwrap();
    }
    client.start();
    assert!(client.stop(STOP).await.complete);
    let failed = failed.lock().unwrap();
    failed.clone()
}

#[tokio::test]
async fn neighbours_of_a_refused_event_are_delivered() {
    for code in DOUBTFUL.into_iter().chain(CERTAIN) {
        for bad in [["0"].as_slice(), &["13"], &["49"], &["0", "1"], &["0", "25"], &["3", "17", "18", "40"]] {
            let fake = refusing(code, bad);
            let failed = one_batch(&fake, 50, |_| {}).await;
            assert_eq!(failed, bad.iter().map(ToString::to_string).collect(), "{code:?} {bad:?}");
            assert!(fake.calls() <= 2 + 12 * bad.len(), "{code:?} {bad:?}: {:?}", fake.sizes());
        }
    }
}

#[tokio::test]
async fn a_server_that_refuses_everything_gets_few_requests() {
    for (code, text, most) in [
        (Code::Unavailable, "down", 1),
        (Code::Unauthenticated, "who are you", 2),
        (Code::DeadlineExceeded, "too slow", 1),
        (Code::ResourceExhausted, "quota exceeded", 2),
        (Code::Internal, "registry is down", 15),
        (Code::NotFound, "no such service", 15),
        (Code::Unknown, "?", 15),
    ] {
        let fake = Fake::new(move |_, _| Err(Status::new(code, text)));
        assert_eq!(one_batch(&fake, 64, |_| {}).await.len(), 64);
        assert!(fake.calls() <= most, "{code:?}: {:?}", fake.sizes());
    }
}

/// The client recognizes a refused size, whatever code and text the server uses.
#[tokio::test]
async fn a_refusal_for_size_is_recognised_in_any_words() {
    for (code, text) in [
        (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 413"),
        (Code::ResourceExhausted, "no"),
        (Code::ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"),
        (Code::OutOfRange, "decoded message length too large"),
        (Code::Internal, "body limit"),
        (Code::InvalidArgument, "bad request"),
        (Code::Cancelled, "stream reset"),
    ] {
        let fake = Fake::new(move |_, batch| match batch.encoded_len() > 20_000 {
            true => Err(Status::new(code, text)),
            false => Ok(all_ok(batch)),
        });
        let mut config = BatchConfig::durable();
        config.batch_interval = Duration::from_millis(1);
        let client = BatchClient::new(Arc::clone(&fake) as Arc<dyn Transport>, config).unwrap();
        client.start();
        let queue = |bytes: usize| {
            let (tell, told) = tokio::sync::oneshot::channel();
            client.queue(event("x".repeat(bytes)), Some(Box::new(move |sent| drop(tell.send(sent))))).unwrap();
            told
        };
        let mut small: Vec<_> = (0..100).map(|_| queue(1_000)).collect();
        let large = queue(30_000);
        small.extend((0..100).map(|_| queue(1_000)));
        for told in small {
            let sent = told.await.unwrap();
            assert!(sent.result.is_ok(), "{code:?} {text}: {:?}", sent.result);
        }
        assert!(large.await.unwrap().result.is_err());
        let before = fake.calls();
        for told in (0..100).map(|_| queue(1_000)).collect::<Vec<_>>() {
            assert!(told.await.unwrap().result.is_ok());
        }
        assert!(fake.calls() - before <= 20, "{code:?}: the client must remember the size: {:?}", fake.sizes());
        client.stop(STOP).await;
    }
}

/// A server that drops the connection at a large request looks unavailable.
/// Small requests after the breaker's probe find the size that it accepts.
#[tokio::test(start_paused = true)]
async fn a_size_that_looks_like_an_outage_is_found_after_the_probe() {
    let fake = Fake::new(|_, batch| match batch.events.len() > 10 {
        true => Err(Status::unavailable("connection reset")),
        false => Ok(all_ok(batch)),
    });
    let mut config = BatchConfig::durable();
    config.max_concurrent_sends = NonZeroUsize::MIN;
    let client = BatchClient::new(Arc::clone(&fake) as Arc<dyn Transport>, config).unwrap();
    client.start();
    let mut left = 1_000;
    let begun = tokio::time::Instant::now();
    while left > 0 {
        let told = (0..left.min(200)).map(|name| {
            let (tell, told) = tokio::sync::oneshot::channel();
            client.queue(event(name), Some(Box::new(move |sent| _ = tell.send(sent.result.is_ok())))).unwrap();
            told
        });
        let told = futures_util::future::join_all(told.collect::<Vec<_>>()).await;
        left -= told.into_iter().filter(|told| *told == Ok(true)).count();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(120), "{left} are left: {:?}", fake.sizes());
    }
    client.stop(STOP).await;
}

fn asks_to_wait(seconds: i64) -> Status {
    /// `google.rpc.RetryInfo` and `google.rpc.Status`, as a server writes them.
    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<prost_types::Duration>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Rpc {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    let value = RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos: 0 }) }.encode_to_vec();
    let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
    let rpc = Rpc { code: 14, details: vec![prost_types::Any { type_url, value }] };
    Status::with_details(Code::Unavailable, "busy", rpc.encode_to_vec().into())
}

fn asks_to_wait_by_header(code: Code, seconds: &str) -> Status {
    let mut status = Status::new(code, "busy");
    status.metadata_mut().insert("retry-after", seconds.parse().unwrap());
    status
}

/// Returns the shortest wait of the rescheduled rows, in seconds.
async fn least_wait<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT CAST(min(next_attempt_at_us - created_at_us) AS BIGINT) FROM eventbox_outbox").await / 1_000_000
}

on_every_engine! {
    /// Of 50 events one is refused: the others are delivered within seconds, it waits alone, and the health names it.
    async fn a_refused_event_does_not_delay_the_others(db) {
        for code in [Code::Internal, Code::Unknown, Code::PermissionDenied, Code::NotFound, Code::Unimplemented] {
            let fake = refusing(code, &["25"]);
            let emitter =
                started(&db.pool, &fake, |config| config.batch.breaker = Some(BreakerConfig::default())).await;
            futures_util::future::try_join_all((0..50).map(|name| emitter.publish(event(name)))).await.unwrap();
            eventually(Duration::from_secs(10), async || db.count(OUTBOX).await == 1).await;
            eventually(SOON, async || {
                let health = format!("{:?}", emitter.health());
                health.contains("refused again and again") && health.contains(&format!("{code:?}"))
            }).await;
            emitter.publish(event("good after it")).await.unwrap();
            eventually(Duration::from_secs(10), async || db.count(OUTBOX).await == 1).await;
            fake.become_ok();
            eventually(SOON, async || db.count(OUTBOX).await == 0 && emitter.health().is_healthy()).await;
            emitter.stop(STOP).await;
        }
    }

    /// A certain refusal makes a dead letter at the first attempt. The other events are delivered at theirs.
    async fn a_certain_refusal_makes_one_dead_letter_and_delivers_the_rest(db) {
        let fake = refusing(Code::InvalidArgument, &["3", "4"]);
        let emitter = started(&db.pool, &fake, |_| {}).await;
        futures_util::future::try_join_all((0..50).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || db.count(OUTBOX).await == 0 && db.count(DEAD).await == 2).await;
        eventually(SOON, async || emitter.stats().delivered == 48).await;
        assert_eq!(emitter.stats().rescheduled, 0);
        emitter.stop(STOP).await;
    }

    async fn a_breaker_that_flaps_is_reported(db) {
        let fake =
            Fake::new(|call, batch| if call % 2 == 0 { Err(Status::unavailable("odd")) } else { Ok(all_ok(batch)) });
        let emitter = started(&db.pool, &fake, |config| {
            config.batch.batch_size = NonZeroUsize::MIN;
            let breaker = BreakerConfig::default().with_failures(NonZeroU32::MIN);
            let breaker = breaker.with_cool_down(Duration::from_millis(5));
            config.batch.breaker = Some(breaker);
        }).await;
        for name in 0..FLAP_OPENINGS + 1 {
            emitter.publish(event(name)).await.unwrap();
            eventually(SOON, async || db.count(OUTBOX).await == 0).await;
        }
        eventually(SOON, async || emitter.client().breaker_state() == BreakerState::Closed).await;
        assert!(emitter.client().breaker_flaps().is_some_and(|openings| openings >= FLAP_OPENINGS));
        let health = format!("{:?}", emitter.health());
        assert!(health.contains("the endpoint flaps"), "{health}");
        emitter.stop(STOP).await;
    }

    async fn the_emitter_waits_as_long_as_the_server_asks(db) {
        for status in [
            asks_to_wait(30),
            asks_to_wait_by_header(Code::Unavailable, "30"),
            asks_to_wait_by_header(Code::ResourceExhausted, "30"),
        ] {
            let asked = status.clone();
            let fake = Fake::new(move |_, _| Err(asked.clone()));
            let emitter = started(&db.pool, &fake, |_| {}).await;
            emitter.publish(event("x")).await.unwrap();
            eventually(SOON, async || emitter.stats().rescheduled == 1).await;
            assert!(least_wait(db).await >= 29, "{status:?}");
            emitter.publish(event("y")).await.unwrap();
            let breaker = emitter.client().breaker_state();
            assert!(matches!(breaker, BreakerState::Open { remaining } if remaining > Duration::from_secs(20)));
            emitter.stop(STOP).await;
            assert_eq!(fake.calls(), 1, "no further request is sent");
            db.run("DELETE FROM eventbox_outbox").await;
        }
    }

    /// The emitter obeys the delay that a server sends over gRPC.
    async fn the_servers_delay_is_obeyed_over_grpc(db) {
        for status in [asks_to_wait(30), asks_to_wait_by_header(Code::ResourceExhausted, "30")] {
            let server = GrpcServer::start(Fake::new(move |_, _| Err(status.clone()))).await;
            let transport: Arc<dyn Transport> =
                Arc::new(GrpcTransport::new(&GrpcConfig::new(server.endpoint())).unwrap());
            let emitter = emitter::DurableEmitter::builder(db.pool.clone(), transport).start().await.unwrap();
            emitter.publish(event("x")).await.unwrap();
            eventually(SOON, async || emitter.stats().rescheduled == 1).await;
            assert!(least_wait(db).await >= 29);
            emitter.stop(STOP).await;
            server.stop().await;
            db.run("DELETE FROM eventbox_outbox").await;
        }
    }

    async fn attempts_can_be_limited(db) {
        for (limit, code) in [(3, Code::Unavailable), (1, Code::Internal)] {
            let fake = Fake::failing(code);
            let emitter = started(&db.pool, &fake, |config| config.max_attempts = NonZeroU32::new(limit)).await;
            emitter.publish(event("x")).await.unwrap();
            eventually(SOON, async || db.count(OUTBOX).await == 0).await;
            let [dead] = outbox::dead_letters(&db.pool, None, 10).await.unwrap().try_into().unwrap();
            assert_eq!((dead.code.as_str(), dead.attempts), (ATTEMPTS_CODE, i32::try_from(limit).unwrap()));
            assert!(dead.reason.contains(&format!("{code:?}")) && dead.reason.contains("scripted"), "{}", dead.reason);
            assert_eq!(fake.calls(), usize::try_from(limit).unwrap());
            emitter.stop(STOP).await;
            db.run("DELETE FROM eventbox_dead_letter").await;
        }
    }

    async fn attempts_are_not_limited_by_default(db) {
        let fake = Fake::failing(Code::Internal);
        let emitter = started(&db.pool, &fake, |config| {
            config.backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        }).await;
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || fake.calls() > 20).await;
        emitter.stop(STOP).await;
        assert_eq!((db.count(OUTBOX).await, db.count(DEAD).await), (1, 0));
    }

    /// The report of a stop counts the rows in flight, in the queue, and held back by the breaker.
    async fn a_stop_reports_the_rows_that_are_left(db) {
        for events in [100, 700] {
            let fake = Fake::ok();
            fake.set_open(false);
            let emitter = started(&db.pool, &fake, |_| {}).await;
            futures_util::future::try_join_all((0..events).map(|name| emitter.publish(event(name)))).await.unwrap();
            eventually(SOON, async || fake.calls() > 0).await;
            let report = emitter.stop(Duration::from_millis(500)).await;
            let left = usize::try_from(db.count(OUTBOX).await).unwrap();
            assert_eq!((report.complete, report.left, left), (false, events, events));
            db.run("DELETE FROM eventbox_outbox").await;
        }
        let fake = Fake::failing(Code::Unauthenticated);
        let emitter = started(&db.pool, &fake, |config| config.batch.breaker = Some(BreakerConfig::default())).await;
        emitter.publish(event("opens it")).await.unwrap();
        eventually(SOON, async || emitter.client().breaker_state() != BreakerState::Closed).await;
        db.run("DELETE FROM eventbox_outbox").await;
        futures_util::future::try_join_all((0..20).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || emitter.client().free() == emitter.client().config().message_buffer.get()).await;
        let report = emitter.stop(STOP).await;
        assert!(!report.complete && report.left >= 19, "{report:?}");
    }
}

#[tokio::test]
async fn transactional_batches_get_smaller_until_the_refused_event_is_alone() {
    let fake = refusing(Code::InvalidArgument, &["7"]);
    let mut config = BatchConfig::default();
    (config.batch_size, config.transaction_enabled) = (NonZeroUsize::new(16).unwrap(), true);
    config.batch_interval = Duration::from_millis(1);
    let client = BatchClient::new(Arc::clone(&fake) as Arc<dyn Transport>, config).unwrap();
    client.start();
    let mut waiting: Vec<usize> = (0..16).collect();
    let mut rounds = 0;
    while waiting != [7] {
        let told = waiting.iter().map(|name| {
            let (tell, told) = tokio::sync::oneshot::channel::<Result<(), SendError>>();
            client.queue(event(name), Some(Box::new(move |sent| drop(tell.send(sent.result))))).unwrap();
            told
        });
        let told = futures_util::future::join_all(told.collect::<Vec<_>>()).await;
        waiting =
            waiting.into_iter().zip(told).filter(|(_, told)| !matches!(told, Ok(Ok(())))).map(|(n, _)| n).collect();
        rounds += 1;
        assert!(rounds <= 8, "{waiting:?} after {rounds} rounds: {:?}", fake.sizes());
    }
    client.stop(STOP).await;
}
