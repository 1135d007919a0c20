//! Starting, stopping, health, set-up and the emitter of the process.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventbox::emitter::{ConfigError, DurableEmitter, EmitterError, SERVICE_NAME, Setup, Transport, global};
use sqlx::Connection;

use super::support::{Fake, STOP, builder, event, payload, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Makes every write on the outbox wait until the connection is closed.
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
    /// durable-emitter 4.
    async fn an_emitter_that_does_not_run_refuses(db) {
        let emitter = builder(&db.pool, &Fake::ok()).build().unwrap();
        let refused = async || emitter.emit(event("x")).await.unwrap_err().to_string();
        assert!(refused().await.contains("not started"));
        assert!(emitter.ready().is_err());
        emitter.start().await.unwrap();
        assert!(matches!(emitter.start().await, Err(EmitterError::AlreadyStarted)));
        emitter.ready().unwrap();
        emitter.stop(STOP).await;
        emitter.stop(STOP).await;
        assert!(refused().await.contains("not started"));
        assert!(matches!(emitter.start().await, Err(EmitterError::AlreadyStarted)));
        assert_eq!(db.count("eventbox_outbox").await, 0);
    }

    /// durable-emitter 7.
    async fn a_running_emitter_is_healthy(db) {
        let emitter = started(&db.pool, &Fake::ok(), |_| {}).await;
        let health = emitter.health();
        assert_eq!(health.entries.into_iter().collect::<Vec<_>>(), [(SERVICE_NAME, None)]);
        assert_eq!(SERVICE_NAME, "DurableEmitter");
        emitter.ready().unwrap();
        emitter.stop(STOP).await;
        assert!(!emitter.health().is_healthy());
    }

    /// durable-emitter 15.
    async fn a_stop_waits_for_inserts_under_way(db) {
        let emitter = started(&db.pool, &Fake::ok(), |config| config.retransmit = false).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        let mut emitting = Box::pin(emitter.emit(event("x")));
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

    /// durable-emitter 24 and 25.
    async fn the_emitter_of_the_process(db) {
        // durable-emitter 23: the emitter of the process is one for all tests, so its cases are one test.
        let _alone = ONE_GLOBAL.lock().await;
        let begun = Instant::now();
        for _ in 0..5 {
            assert!(matches!(global::emit(event("x")).await, Err(EmitterError::NotInitialized)));
            global::emit_async(event("x"));
        }
        assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
        assert_eq!(EmitterError::NotInitialized.to_string(), "durable emitter not initialized");

        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.insert_flush_interval = Duration::from_millis(50)).await;
        global::set_global(Some(Arc::new(emitter.clone())));
        let begun = Instant::now();
        for name in 0..5 {
            global::emit(event(name)).await.unwrap();
        }
        let in_turn = begun.elapsed();
        assert!(in_turn < Duration::from_millis(5 * 500), "{in_turn:?}");
        assert!(in_turn >= Duration::from_millis(5 * 50), "each alone waits for company: {in_turn:?}");

        let begun = Instant::now();
        for name in 5..10 {
            global::emit_async(event(name));
        }
        assert!(begun.elapsed() < Duration::from_millis(50));
        eventually(SOON, async || fake.events().len() == 10).await;
        emitter.stop(STOP).await;
        let failed = global::emit(event("x")).await.unwrap_err();
        assert_eq!(failed.to_string(), "durable emitter emit failed");
        let cause = std::error::Error::source(&failed).unwrap();
        assert!(cause.to_string().contains("not started"), "{cause}");
        global::set_global(None);
    }

    /// REQ-7.
    async fn asynchronous_emits_are_bounded_and_finished_at_the_stop(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.async_buffer = NonZeroUsize::new(10).unwrap()).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        for name in 0..200 {
            emitter.emit_async(event(name));
        }
        let dropped = emitter.stats().async_dropped;
        assert!(dropped > 0 && dropped < 200, "{dropped}");
        lock.close().await.unwrap();
        assert!(emitter.stop(STOP).await.complete);
        assert_eq!(fake.events().len() as u64, 200 - dropped);
    }

    /// durable-emitter 50; REQ-34.
    async fn a_loop_that_stands_still_is_seen(db) {
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

    /// REQ-5: a database that hangs does not hold up a stop beyond its deadline.
    async fn a_hanging_database_does_not_block_a_stop(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.retransmit = false).await;
        let lock = locked(db, lock_of::<Engine>()).await;
        let emitting = { let emitter = emitter.clone(); tokio::spawn(async move { emitter.emit(event("x")).await }) };
        tokio::task::yield_now().await;
        let begun = Instant::now();
        emitter.stop(Duration::from_millis(200)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        lock.close().await.unwrap();
        let _ = emitting.await.unwrap();
    }

    /// durable-emitter 6 and 49; REQ-18, REQ-35 and REQ-37. What cannot be missing by its type is not asked for.
    async fn a_wrong_setup_is_refused_by_name(db) {
        let text = |setup: Setup<Engine>| match setup.build() {
            Err(EmitterError::Config(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let complete = || {
            let mut setup = Setup::<Engine>::default();
            (setup.pool, setup.endpoint, setup.insecure_connection) = (Some(db.pool.clone()), "localhost:1".to_owned(), true);
            setup
        };
        let mut no_pool = complete();
        no_pool.pool = None;
        let problem = text(no_pool);
        assert!(problem.contains("durable event store is nil") && problem.contains("data source required when durable emitter is enabled"));
        let mut no_endpoint = complete();
        no_endpoint.endpoint.clear();
        assert!(text(no_endpoint).contains("CL_CHIP_INGRESS_ENDPOINT"));
        let mut both = complete();
        both.batch_emitter_enabled = true;
        let problem = text(both);
        assert!(problem.contains("CL_CHIP_INGRESS_BATCH_EMITTER_ENABLED") && problem.contains("CL_CHIP_INGRESS_DURABLE_EMITTER_ENABLED"));
        let mut bad_address = complete();
        bad_address.endpoint = "no-port".to_owned();
        assert!(text(bad_address).contains("missing port in address"));

        let wrong = |change: fn(&mut eventbox::emitter::Config)| {
            let transport: Arc<dyn Transport> = Fake::ok();
            match DurableEmitter::builder(db.pool.clone(), transport).configure(change).build() {
                Err(EmitterError::Config(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        for (change, setting) in [
            ((|config| config.retransmit_interval = Duration::ZERO) as fn(&mut eventbox::emitter::Config), "retransmit_interval"),
            (|config| config.expiry = Some(eventbox::emitter::Expiry { interval: Duration::ZERO, ..Default::default() }), "expiry.interval"),
            (|config| config.batch.batch_interval = Duration::ZERO, "batch_interval"),
        ] {
            assert_eq!(wrong(change), ConfigError::Zero { setting });
        }
        assert!(matches!(wrong(|config| config.retransmit_after = Duration::from_secs(5)), ConfigError::ClaimTooShort { .. }));

        let _alone = ONE_GLOBAL.lock().await;
        let mut setup = complete();
        (setup.batch_size, setup.message_buffer_size) = (7, 0);
        setup.emitter.retransmit_batch_size = NonZeroUsize::new(3).unwrap();
        let emitter = setup.build().unwrap();
        assert!(emitter.ready().is_err() && global::global().is_some());
        assert_eq!((emitter.client().config().batch_size.get(), emitter.client().config().message_buffer.get()), (7, 10_000));
        global::set_global(None);
    }

    /// TRAP-6 and REQ-10: an event that cannot be stored fails alone, and is told so.
    async fn an_event_that_is_too_large_fails_alone(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| config.batch.max_request_bytes = 1 << 20).await;
        let big = emitter.emit(event("x".repeat(2 << 20)));
        let (big, small) = tokio::join!(big, emitter.emit(event("small")));
        assert!(matches!(big, Err(EmitterError::TooLarge { .. })));
        small.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(fake.events().iter().map(payload).collect::<Vec<_>>(), ["small"]);
        emitter.stop(STOP).await;
    }
}

/// The emitter of the process is one for all tests.
static ONE_GLOBAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
