//! Start, stop, health, set-up, and the global emitter of the process.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eventbox::chip::{ConfigError, Transport};
use eventbox::emitter::{self, DurableEmitter, Expiry, MetricsConfig, Retain, SERVICE_NAME, Setup, global};
use sqlx::Connection;

use super::support::{Fake, STOP, builder, event, payload, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Makes every write on the outbox wait until the returned connection is closed.
async fn locked<B: TestEngine>(db: &TestDb<B>, lock: &'static str) -> B::Connection
where
    for<'c> &'c mut B::Connection: sqlx::Executor<'c, Database = B>,
{
    let mut conn = db.connect().await;
    sqlx::raw_sql(lock).execute(&mut conn).await.unwrap();
    conn
}

fn lock_of<B: TestEngine>() -> &'static str {
    if B::NAME == "SQLite" { "BEGIN IMMEDIATE" } else { "BEGIN; LOCK TABLE eventbox_outbox IN EXCLUSIVE MODE" }
}

on_every_engine! {
    /// An emitter before its start or after its stop refuses emits. It starts once.
    async fn an_emitter_that_does_not_run_refuses_events(db) {
        let emitter = builder(&db.pool, &Fake::ok()).build().unwrap();
        let refused = async || emitter.publish(event("x")).await.unwrap_err().to_string();
        assert!(refused().await.contains("not started"));
        assert!(emitter.ready().is_err());
        emitter.start().await.unwrap();
        assert!(matches!(emitter.start().await, Err(emitter::Error::AlreadyStarted)));
        emitter.ready().unwrap();
        emitter.stop(STOP).await;
        emitter.stop(STOP).await;
        assert!(refused().await.contains("not started"));
        assert!(matches!(emitter.start().await, Err(emitter::Error::AlreadyStarted)));
        assert_eq!(db.count("eventbox_outbox").await, 0);
    }

    /// A running emitter is healthy and ready; a stopped emitter is not healthy.
    async fn a_running_emitter_is_healthy(db) {
        let emitter = started(&db.pool, &Fake::ok(), |_| {}).await;
        let health = emitter.health();
        assert_eq!(health.entries.into_iter().collect::<Vec<_>>(), [(SERVICE_NAME, None)]);
        assert_eq!(SERVICE_NAME, "DurableEmitter");
        emitter.ready().unwrap();
        emitter.stop(STOP).await;
        assert!(!emitter.health().is_healthy());
    }

    /// A stop waits for the inserts in flight, and delivers their rows.
    async fn a_stop_waits_for_inserts_in_flight(db) {
        let emitter = started(&db.pool, &Fake::ok(), |config| config.retransmit = false).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        let mut emitting = Box::pin(emitter.publish(event("x")));
        assert!(futures_util::poll!(&mut emitting).is_pending());
        let mut stopping = Box::pin(emitter.stop(STOP));
        eventually(SOON, async || {
            assert!(futures_util::poll!(&mut stopping).is_pending());
            emitter.ready().is_err()
        }).await;
        assert!(futures_util::poll!(&mut emitting).is_pending());
        lock.close().await.unwrap();
        let (emitted, report) = tokio::join!(emitting, stopping);
        emitted.unwrap();
        assert!(report.complete, "{report:?}");
        assert_eq!(db.count("eventbox_outbox").await, 0);
    }

    /// Without a global emitter, publishing fails at once. `global::publish` returns after the insert, `publish_async`
    /// before it.
    /// One test, because all tests share the global emitter.
    async fn the_global_emitter_stores_before_it_returns(db) {
        let _alone = ONE_GLOBAL.lock().await;
        for _ in 0..5 {
            assert!(matches!(global::publish(event("x")).await, Err(emitter::Error::NotInitialized)));
            global::publish_async(event("x"));
        }
        assert_eq!(emitter::Error::NotInitialized.to_string(), "durable emitter not initialized");

        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.insert_flush_interval = Duration::from_millis(50)).await;
        global::set_global(Some(Arc::new(emitter.clone())));
        let mut took = Vec::new();
        for name in 0..5 {
            let begun = Instant::now();
            global::publish(event(name)).await.unwrap();
            took.push(begun.elapsed());
            assert_eq!(emitter.stats().published, name + 1, "the row is stored when the call returns");
        }
        assert!(took.iter().min() >= Some(&Duration::from_millis(50)), "each emit waits for the interval: {took:?}");

        let lock = locked(db, lock_of::<Engine>()).await;
        for name in 5..10 {
            global::publish_async(event(name));
        }
        assert_eq!(emitter.stats().published, 5, "the calls returned while no row could be stored");
        lock.close().await.unwrap();
        eventually(SOON, async || fake.events().len() == 10).await;
        emitter.stop(STOP).await;
        let failed = global::publish(event("x")).await.unwrap_err();
        assert_eq!(failed.to_string(), "durable emitter emit failed");
        let cause = std::error::Error::source(&failed).unwrap();
        assert!(cause.to_string().contains("not started"), "{cause}");
        global::set_global(None);
    }

    /// Asynchronous emits beyond `async_buffer` are dropped and counted. A stop finishes the others.
    async fn messages_in_the_background_are_bounded_and_stored_before_the_stop(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.async_buffer = NonZeroUsize::new(10).unwrap()).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        for name in 0..200 {
            emitter.publish_async(event(name));
        }
        let dropped = emitter.stats().async_dropped;
        assert!(dropped > 0 && dropped < 200, "{dropped}");
        lock.close().await.unwrap();
        assert!(emitter.stop(STOP).await.complete);
        assert_eq!(fake.events().len() as u64, 200 - dropped);
    }

    /// A retransmit loop that hangs in the database makes the emitter unhealthy, and the report names it.
    async fn a_loop_that_hangs_is_reported(db) {
        let emitter = started(&db.pool, &Fake::ok(), |config| {
            (config.retransmit_interval, config.health_grace) = (Duration::from_millis(300), Duration::from_millis(1));
        }).await;
        assert!(emitter.health().is_healthy());
        let lock = locked(db, lock_of::<Engine>()).await;
        let begun = Instant::now();
        eventually(SOON, async || !emitter.health().is_healthy()).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let problem = emitter.health().entries[SERVICE_NAME].clone().unwrap();
        assert!(problem.contains("retransmit"), "{problem}");
        lock.close().await.unwrap();
        eventually(SOON, async || emitter.health().is_healthy()).await;
        emitter.stop(STOP).await;
    }

    /// The health report names each loop that hangs, because each loop has a heartbeat of its own.
    async fn each_loop_that_hangs_is_named(db) {
        let server = Fake::new(|_, _| Err(tonic::Status::unavailable("scripted")));
        let emitter = started(&db.pool, &server, |config| {
            config.health_grace = Duration::from_millis(1);
            config.retransmit_interval = Duration::from_millis(100);
            config.expiry = Some(Expiry::default().with_interval(Duration::from_millis(100)));
            config.retain_delivered = Some(Retain::default().with_purge_interval(Duration::from_millis(100)));
            config.metrics = Some(MetricsConfig::default().with_poll_interval(Duration::from_millis(100)));
            // Each request ends in time, but the batch is split into several requests, which together do not.
            (config.batch.publish_timeout, config.batch.max_request_bytes) = (Duration::from_millis(400), 1 << 20);
            config.batch.max_concurrent_sends = NonZeroUsize::MIN;
            config.batch.batch_size = NonZeroUsize::new(8).unwrap();
            config.delete_workers = NonZeroUsize::MIN;
            config.insert_workers = 1;
        }).await;
        let named = |loops: &[&str]| {
            let problem = emitter.health().entries[SERVICE_NAME].clone().unwrap_or_default();
            loops.iter().all(|name| problem.contains(&format!("loop {name} ")))
        };
        assert!(emitter.health().is_healthy());

        let on_sqlite = lock_of::<Engine>() == "BEGIN IMMEDIATE";
        let lock = locked(db, if on_sqlite { "BEGIN IMMEDIATE" } else { "BEGIN; LOCK TABLE eventbox_outbox" }).await;
        // Readers on SQLite wait for no writer.
        let waiting = ["retransmit", "expiry", "purge", "observe"];
        let waiting = if on_sqlite { &waiting[..3] } else { &waiting[..] };
        eventually(SOON, async || named(waiting)).await;
        assert!(!named(&["publish"]));
        lock.close().await.unwrap();
        eventually(SOON, async || emitter.health().is_healthy()).await;

        server.become_ok();
        *server.delay.lock().unwrap() = Duration::from_millis(250);
        let big = || event("x".repeat(600 << 10));
        futures_util::future::try_join_all((0..24).map(|_| emitter.publish(big()))).await.unwrap();
        eventually(SOON, async || named(&["publish"])).await;
        *server.delay.lock().unwrap() = Duration::ZERO;
        emitter.stop(STOP).await;
    }

    /// Neither a database that hangs nor a transport that does not close delays a stop beyond its deadline.
    async fn a_hanging_database_does_not_block_a_stop(db) {
        let fake = Fake::ok();
        fake.hang_on_close.store(true, Ordering::SeqCst);
        let emitter = started(&db.pool, &fake, |config| {
            config.expiry = Some(Expiry::default().with_interval(Duration::from_millis(1)));
            config.metrics = Some(MetricsConfig::default().with_poll_interval(Duration::from_millis(1)));
            config.delete_flush_interval = Duration::from_secs(3600);
        }).await;
        emitter.publish(event("sent, and never settled")).await.unwrap();
        eventually(SOON, async || emitter.stats().sent_fresh == 1).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        for name in 0..100 {
            emitter.publish_async(event(name));
        }
        let emitting: Vec<_> = (0..10).map(|name| {
            let emitter = emitter.clone();
            tokio::spawn(async move { emitter.publish(event(name)).await })
        }).collect();
        tokio::task::yield_now().await;
        let begun = Instant::now();
        let report = emitter.stop(Duration::from_millis(600)).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1_200), "{took:?}");
        assert!(!report.complete && report.left >= 1, "{report:?}");
        assert_eq!(fake.closed.load(Ordering::SeqCst), 1);
        lock.close().await.unwrap();
        for emit in emitting {
            let _ = emit.await.unwrap();
        }
        let begun = Instant::now();
        emitter.stop(STOP).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "a second stop waits for the rest: {:?}", begun.elapsed());
    }

    /// An emit waits at most `database_timeout` for its insert to begin, however many emits wait before it.
    async fn a_publish_fails_in_time_when_the_database_hangs(db) {
        let emitter = started(&db.pool, &Fake::ok(), |config| {
            (config.retransmit, config.insert_batch_size, config.insert_workers) = (false, 1, 1);
            (config.database_timeout, config.health_grace) = (Duration::from_millis(100), Duration::from_millis(1));
        }).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        let begun = Instant::now();
        let emits = futures_util::future::join_all((0..200).map(|name| emitter.publish(event(name))));
        let answers = emits.await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let gave_up = |answer: &Result<_, emitter::Error>| matches!(answer, Err(emitter::Error::Persist(_)));
        assert!(answers.iter().all(gave_up), "{answers:?}");
        let last = answers.last().unwrap().as_ref().unwrap_err();
        assert!(std::error::Error::source(last).unwrap().to_string().contains("store a message in the outbox"));
        lock.close().await.unwrap();
        emitter.stop(STOP).await;
    }

    /// Settings of `Duration::MAX` do not overflow.
    async fn a_setting_may_be_the_longest_duration(db) {
        let emitter = started(&db.pool, &Fake::ok(), |config| {
            config.claim_ttl = Duration::MAX;
            config.delete_flush_interval = Duration::MAX;
            config.batch.batch_interval = Duration::MAX;
            config.database_timeout = Duration::MAX;
            config.shutdown_timeout = Duration::MAX;
            config.expiry = Some(Expiry::default().with_ttl(Duration::MAX).with_interval(Duration::MAX));
        }).await;
        emitter.publish(event("x")).await.unwrap();
        assert!(emitter.close().await.complete);
        assert_eq!(db.count("eventbox_outbox").await, 0);
    }

    /// `Setup` and the builder refuse a wrong setting with an error that names the setting.
    async fn a_wrong_setup_is_refused_by_name(db) {
        let text = |setup: Setup<Engine>| match setup.build() {
            Err(emitter::Error::Config(error)) => error.to_string(),
            Err(error) => error.to_string(),
            Ok(emitter) => panic!("{emitter:?}"),
        };
        let complete = || {
            let mut setup = Setup::<Engine>::default();
            (setup.pool, setup.endpoint, setup.insecure_connection) =
                (Some(db.pool.clone()), "localhost:1".to_owned(), true);
            setup
        };
        let mut no_pool = complete();
        no_pool.pool = None;
        let problem = text(no_pool);
        assert!(
            problem.contains("durable event store is nil")
                && problem.contains("data source required when durable emitter is enabled")
        );
        let mut no_endpoint = complete();
        no_endpoint.endpoint.clear();
        assert!(text(no_endpoint).contains("CL_CHIP_INGRESS_ENDPOINT"));
        let mut both = complete();
        both.batch_emitter_enabled = true;
        let problem = text(both);
        assert!(
            problem.contains("CL_CHIP_INGRESS_BATCH_EMITTER_ENABLED")
                && problem.contains("CL_CHIP_INGRESS_DURABLE_EMITTER_ENABLED")
        );
        let mut bad_address = complete();
        bad_address.endpoint = "no-port".to_owned();
        assert!(text(bad_address).contains("missing port in address"));

        let wrong = |change: fn(&mut eventbox::emitter::Config)| {
            let transport: Arc<dyn Transport> = Fake::ok();
            match DurableEmitter::builder(db.pool.clone(), transport).configure(change).build() {
                Err(error) => error,
                other => panic!("{other:?}"),
            }
        };
        for (change, setting) in [
            (
                (|config| config.retransmit_interval = Duration::ZERO) as fn(&mut eventbox::emitter::Config),
                "retransmit_interval",
            ),
            (|config| config.expiry = Some(Expiry::default().with_interval(Duration::ZERO)), "expiry.interval"),
            (|config| config.batch.batch_interval = Duration::ZERO, "batch_interval"),
        ] {
            assert!(matches!(wrong(change), emitter::Error::Config(error) if error == ConfigError::Zero { setting }));
        }
        let short = wrong(|config| config.claim_ttl = Duration::from_secs(5));
        assert!(matches!(short, emitter::Error::ClaimTooShort { .. }));

        let _alone = ONE_GLOBAL.lock().await;
        let mut setup = complete();
        (setup.batch_size, setup.message_buffer_size) = (7, 0);
        setup.emitter.retransmit_batch_size = NonZeroUsize::new(3).unwrap();
        let emitter = setup.build().unwrap();
        assert!(emitter.ready().is_err() && global::global().is_some());
        assert_eq!(
            (emitter.client().config().batch_size.get(), emitter.client().config().message_buffer.get()),
            (7, 10_000)
        );
        global::set_global(None);
    }

    /// The process may set the signer of its rotating credentials after the setup.
    async fn the_signer_may_be_set_after_the_setup(db) {
        struct Nobody;
        #[async_trait::async_trait]
        impl eventbox::chip::Signer for Nobody {
            async fn sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, eventbox::BoxError> {
                Err("nobody signs".into())
            }
        }
        let _alone = ONE_GLOBAL.lock().await;
        let with_ttl = |headers_ttl| {
            let mut setup = Setup::<Engine>::default();
            (setup.pool, setup.endpoint, setup.insecure_connection) =
                (Some(db.pool.clone()), "localhost:1".to_owned(), true);
            setup.auth.public_key_hex = "ab".repeat(32);
            setup.auth.headers_ttl = headers_ttl;
            setup.build().unwrap()
        };
        with_ttl(Duration::ZERO);
        global::set_signer(Arc::new(Nobody));
        assert!(!global::is_signer_set(), "nothing happens without rotating credentials");
        with_ttl(Duration::from_secs(600));
        assert!(!global::is_signer_set());
        global::set_signer(Arc::new(Nobody));
        assert!(global::is_signer_set());
        with_ttl(Duration::ZERO);
        assert!(!global::is_signer_set());
        global::set_global(None);
    }

    /// An event above the size limit fails alone, with an error of its own.
    async fn an_event_that_is_too_large_fails_alone(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.batch.max_request_bytes = 1 << 20).await;
        let big = emitter.publish(event("x".repeat(2 << 20)));
        let (big, small) = tokio::join!(big, emitter.publish(event("small")));
        assert!(matches!(big, Err(emitter::Error::TooLarge { .. })));
        small.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(fake.events().iter().map(payload).collect::<Vec<_>>(), ["small"]);
        emitter.stop(STOP).await;
    }
}

/// Lock of the global emitter, which all tests share.
pub(super) static ONE_GLOBAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
