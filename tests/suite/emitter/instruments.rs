//! The instruments of the emitter and the batch client, as a recorder sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::{BatchClient, BatchConfig, BreakerConfig, Transport};
use eventbox::emitter::{self, Expiry, MetricsConfig};
use eventbox::{
    chip,
    metrics::{Instrument, InstrumentKind},
};
use tonic::{Code, Status};

use super::support::{Fake, STOP, all_ok, event, of, quick};
use crate::support::recorded::recorded;
use crate::support::{SOON, eventually};

/// The tables of the emitter and of its client, one after the other.
fn instruments() -> Vec<Instrument> {
    [emitter::INSTRUMENTS, chip::INSTRUMENTS].concat()
}

async fn sqlite() -> (tempfile::TempDir, sqlx::SqlitePool) {
    let directory = tempfile::tempdir().unwrap();
    let pool =
        sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("m.sqlite3"))).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    (directory, pool)
}

/// The table and the recorded instruments are the same, with kinds and all labels.
#[test]
fn every_instrument_is_in_the_table_and_is_recorded() {
    let recorded = recorded(async |recording| {
        let (_directory, pool) = sqlite().await;
        // In this order: a mismatch, a failure with a fallback, a permanent failure, and successes.
        let fake = Fake::new(|call, batch| match call {
            0 => Ok(Default::default()),
            1 => Err(Status::unavailable("once")),
            2 => Err(Status::invalid_argument("never")),
            _ => Ok(all_ok(batch)),
        });
        let transport: Arc<dyn Transport> = Arc::clone(&fake) as _;
        let emitter = emitter::DurableEmitter::builder(pool.clone(), transport).configure(quick).configure(|config| {
            config.fallback = true;
            config.async_buffer = std::num::NonZeroUsize::MIN;
            let expiry = Expiry::default().with_ttl(Duration::from_millis(200));
            config.expiry = Some(expiry.with_interval(Duration::from_millis(5)));
            let metrics = MetricsConfig::default().with_poll_interval(Duration::from_millis(5));
            let metrics = metrics.with_near_expiry_lead(Duration::from_millis(50));
            config.metrics = Some(metrics.with_max_queue_payload_bytes(1_000));
            config.batch.max_request_bytes = 1 << 20;
        });
        let emitter = emitter.start().await.unwrap();
        for name in 0..5 {
            emitter.publish(event(name)).await.unwrap();
            emitter.flush(Duration::from_millis(100)).await.unwrap();
        }
        let large = "x".repeat(600_000);
        let (one, two) = tokio::join!(emitter.publish(event(&large)), emitter.publish(event(&large)));
        assert!(one.is_ok() && two.is_ok());
        emitter.publish(event("x".repeat(2 << 20))).await.unwrap_err();
        (0..20).for_each(|name| emitter.publish_async(event(name)));
        assert!(emitter.flush(SOON).await.unwrap());

        // A row that expires, and a full buffer.
        fake.set_open(false);
        let full = emitter::DurableEmitter::builder(pool.clone(), Arc::clone(&fake) as Arc<dyn Transport>);
        let full = full.configure(quick).configure(|config| {
            config.retransmit = false;
            config.batch.message_buffer = std::num::NonZeroUsize::MIN;
            config.batch.batch_size = std::num::NonZeroUsize::MIN;
        });
        let full = full.start().await.unwrap();
        for name in 0..10 {
            full.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || emitter.stats().expired > 0).await;
        fake.set_open(true);
        full.stop(STOP).await;
        emitter.stop(STOP).await;

        // A fallback that fails too, and claims that fail.
        let failing = Fake::failing(Code::Unavailable);
        failing.fail_unary(Code::Unavailable);
        let emitter = emitter::DurableEmitter::builder(pool.clone(), failing as Arc<dyn Transport>).configure(quick);
        let emitter = emitter.configure(|config| {
            config.fallback = true;
            let (failures, cool_down) = (std::num::NonZeroU32::MIN, Duration::from_millis(5));
            let breaker = BreakerConfig::default().with_failures(failures);
            config.batch.breaker = Some(breaker.with_cool_down(cool_down).with_max_cool_down(cool_down));
        });
        let emitter = emitter.start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        let counted = async |name: &str| {
            let name = format!("durable_emitter.publish.{name}");
            eventually(SOON, async || recording.total(&name) > 0.0).await;
        };
        counted("immediate.failure").await;
        counted("retransmit.batch.success").await;
        sqlx::query("ALTER TABLE eventbox_outbox RENAME TO elsewhere").execute(&pool).await.unwrap();
        counted("retransmit.batch.failure").await;
        emitter.stop(STOP).await;
    });

    recorded.matches_with_optional_labels(&instruments());
}

/// The table has the names, kinds, units and labels of the two specifications, word for word.
/// Every counter of events has the labels of the domain and the entity.
#[test]
fn the_table_has_every_specified_instrument() {
    let all = instruments();
    let table: BTreeSet<_> =
        all.iter().map(|instrument| (instrument.name, format!("{:?}", instrument.kind), instrument.unit)).collect();
    for specified in [
        ("chip_ingress.batch.send_requests_total", "Counter", "{request}"),
        ("chip_ingress.batch.request_size_messages", "Histogram", "{event}"),
        ("chip_ingress.batch.request_size_bytes", "Histogram", "By"),
        ("chip_ingress.batch.request_latency_ms", "Histogram", "ms"),
        ("chip_ingress.batch.config.info", "Gauge", "{info}"),
        ("chip_ingress.batch.batch_splits_total", "Counter", "{split}"),
        ("chip_ingress.batch.results_mismatch_total", "Counter", "{mismatch}"),
        ("durable_emitter.emit.success", "Counter", "{call}"),
        ("durable_emitter.emit.failure", "Counter", "{call}"),
        ("durable_emitter.emit.duration", "Histogram", "s"),
        ("durable_emitter.emit.total_duration", "Histogram", "s"),
        ("durable_emitter.publish.immediate.success", "Counter", "{call}"),
        ("durable_emitter.publish.immediate.failure", "Counter", "{call}"),
        ("durable_emitter.publish.retransmit.batch.success", "Counter", "{call}"),
        ("durable_emitter.publish.retransmit.batch.failure", "Counter", "{call}"),
        ("durable_emitter.publish.duration", "Histogram", "s"),
        ("durable_emitter.publish.batch.events.success", "Counter", "{event}"),
        ("durable_emitter.publish.batch.events.failure", "Counter", "{event}"),
        ("durable_emitter.delivery.completed", "Counter", "{event}"),
        ("durable_emitter.expired_purged", "Counter", "{event}"),
        ("durable_emitter.store.operations", "Counter", "{op}"),
        ("durable_emitter.store.operation.duration", "Histogram", "s"),
        ("durable_emitter.queue.depth", "Gauge", "{row}"),
        ("durable_emitter.queue.depth_max", "Gauge", "{row}"),
        ("durable_emitter.queue.payload_bytes", "Gauge", "By"),
        ("durable_emitter.queue.oldest_pending_age_seconds", "Gauge", "s"),
        ("durable_emitter.queue.ttl_budget_seconds", "Gauge", "s"),
        ("durable_emitter.queue.near_ttl", "Gauge", "{row}"),
        ("durable_emitter.queue.capacity_usage_ratio", "Gauge", "1"),
        ("durable_emitter.process.memory.heap_inuse_bytes", "Gauge", "By"),
        ("durable_emitter.process.memory.heap_sys_bytes", "Gauge", "By"),
        ("durable_emitter.process.cpu.user_seconds", "Gauge", "s"),
        ("durable_emitter.process.cpu.system_seconds", "Gauge", "s"),
        ("durable_emitter.batch_enqueue.buffer_full", "Counter", "{event}"),
        ("durable_emitter.insert_coalescer.queue_fill_ratio", "Gauge", "1"),
        ("durable_emitter.delete_coalescer.queue_fill_ratio", "Gauge", "1"),
        ("durable_emitter.mark_coalescer.queue_fill_ratio", "Gauge", "1"),
        ("durable_emitter.fallback.in_flight", "Gauge", "{task}"),
    ] {
        assert!(table.contains(&(specified.0, specified.1.to_owned(), specified.2)), "{specified:?}");
    }
    let labels = |name: &str| all.iter().find(|instrument| instrument.name == name).unwrap().labels;
    for (name, specified) in [
        ("chip_ingress.batch.send_requests_total", &["status"][..]),
        ("chip_ingress.batch.request_size_messages", &["max_batch_size"]),
        ("chip_ingress.batch.request_size_bytes", &["max_grpc_request_size_bytes"]),
        ("chip_ingress.batch.request_latency_ms", &["status"]),
        (
            "chip_ingress.batch.config.info",
            &[
                "max_batch_size",
                "message_buffer_size",
                "max_concurrent_sends",
                "batch_interval_ms",
                "max_publish_timeout_ms",
                "shutdown_timeout_ms",
                "clone_event",
                "transaction_enabled",
                "max_grpc_request_size_bytes",
            ],
        ),
        ("durable_emitter.emit.duration", &["error"]),
        ("durable_emitter.publish.duration", &["phase", "error", "client_name"]),
        ("durable_emitter.publish.batch.events.success", &["phase", "client_name"]),
        ("durable_emitter.publish.batch.events.failure", &["phase", "client_name"]),
        ("durable_emitter.store.operations", &["operation", "error"]),
        ("durable_emitter.store.operation.duration", &["operation"]),
        ("durable_emitter.batch_enqueue.buffer_full", &["phase"]),
    ] {
        assert!(specified.iter().all(|label| labels(name).contains(label)), "{name}");
    }
    for instrument in instruments() {
        let of_events = instrument.unit == "{event}" && instrument.kind == InstrumentKind::Counter;
        let emits = instrument.name.starts_with("durable_emitter.emit.") && instrument.kind == InstrumentKind::Counter;
        let named = ["domain", "entity"].iter().all(|label| instrument.labels.contains(label));
        assert!(named || !(of_events || emits), "{}", instrument.name);
        let of_client = instrument.name.starts_with("chip_ingress.batch.");
        assert!(!of_client || instrument.labels.contains(&"client_name"), "{}", instrument.name);
    }
    let buckets = |name: &str| all.iter().find(|instrument| instrument.name == name).unwrap().buckets;
    assert_eq!(buckets("chip_ingress.batch.request_size_messages").len(), 13);
    assert_eq!(buckets("chip_ingress.batch.request_size_bytes").len(), 14);
    assert_eq!(buckets("durable_emitter.emit.duration").len(), 15);
}

/// The metrics separate first sends from retransmissions, and show the remaining time to live.
#[test]
fn metrics_separate_first_sends_from_retransmissions() {
    let recorded = recorded(async |_| {
        let (_directory, pool) = sqlite().await;
        let fake =
            Fake::new(|call, batch| if call == 0 { Err(Status::unavailable("once")) } else { Ok(all_ok(batch)) });
        let emitter =
            emitter::DurableEmitter::builder(pool, fake as Arc<dyn Transport>).configure(quick).configure(|config| {
                config.expiry = Some(Expiry::default());
                config.metrics = Some(MetricsConfig::default().with_poll_interval(Duration::from_millis(5)));
            });
        let emitter = emitter.start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        emitter.stop(STOP).await;
    });
    assert_eq!(
        recorded.total("durable_emitter.emit.success", &[("domain", "flights"), ("entity", "flight.departed")]),
        1.0
    );
    let budget = recorded.total("durable_emitter.queue.ttl_budget_seconds", &[]);
    assert!(budget.fract() == 0.0 && (3_500.0..=3_600.0).contains(&budget), "{budget}");
    let of = |outcome: &str, phase: &str| {
        let name = format!("durable_emitter.publish.batch.events.{outcome}");
        recorded.total(&name, &[("phase", phase), ("client_name", "durable_emitter")])
    };
    assert_eq!((of("failure", "batch"), of("failure", "retransmit")), (1.0, 0.0));
    assert_eq!((of("success", "batch"), of("success", "retransmit")), (0.0, 1.0));
    let duration =
        |phase, error| recorded.total("durable_emitter.publish.duration", &[("phase", phase), ("error", error)]);
    assert_eq!((duration("batch", "true"), duration("retransmit", "false")), (1.0, 1.0));
}

/// The batch client counts requests, sizes, splits and refusals, with its client name as a label.
#[test]
fn metrics_of_the_batch_client_carry_its_name() {
    for client_name in [None, Some("mine")] {
        let recorded = recorded(async |_| {
            for code in [None, Some(Code::Unavailable)] {
                let fake = code.map_or_else(Fake::ok, Fake::failing);
                let mut config = BatchConfig::default();
                config.client_name = client_name.map(str::to_owned);
                config.max_request_bytes = 1 << 20;
                let client = BatchClient::new(fake as Arc<dyn Transport>, config).unwrap();
                client.queue(event("x"), None).unwrap();
                client.queue(event("y".repeat(2 << 20)), None).unwrap();
                client.start();
                client.stop(STOP).await;
            }
        });
        let requests = |status| recorded.total("chip_ingress.batch.send_requests_total", &[("status", status)]);
        assert_eq!((requests("success"), requests("failure")), (1.0, 3.0));
        let latency = |status| recorded.total("chip_ingress.batch.request_latency_ms", &[("status", status)]);
        assert_eq!((latency("success"), latency("failure")), (1.0, 3.0));
        assert_eq!(recorded.total("chip_ingress.batch.request_size_messages", &[("max_batch_size", "10")]), 4.0);
        let limit = [("max_grpc_request_size_bytes", "1048576")];
        assert_eq!(recorded.total("chip_ingress.batch.request_size_bytes", &limit), 4.0);
        assert_eq!(recorded.total("chip_ingress.batch.batch_splits_total", &[]), 2.0);
        assert_eq!(recorded.total("chip_ingress.batch.config.info", &[("message_buffer_size", "200")]), 1.0);
        for (name, series) in recorded.0.iter().filter(|(name, _)| name.starts_with("chip_ingress.")) {
            for (_, labels, _) in series {
                assert_eq!(labels.get("client_name").map(String::as_str), client_name, "{name}");
            }
        }
    }
}

/// A response whose results do not match counts as one mismatch. Results of a transactional batch are not read.
#[test]
fn mismatches_are_counted() {
    use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse, PublishResult};
    type Results = fn(&CloudEventBatch) -> Vec<PublishResult>;
    let answers: [(Results, bool, f64); 6] = [
        (|batch| all_ok(batch).results, false, 0.0),
        (|batch| all_ok(batch).results[..1].to_vec(), false, 1.0),
        (|batch| [all_ok(batch).results, all_ok(batch).results].concat(), false, 1.0),
        (|_| Vec::new(), false, 1.0),
        (|batch| vec![PublishResult { event_id: "another".to_owned(), error: None }; batch.events.len()], false, 1.0),
        (|_| Vec::new(), true, 0.0),
    ];
    for (number, (results, transactional, mismatches)) in answers.into_iter().enumerate() {
        let recorded = recorded(async |_| {
            let fake = Fake::new(move |_, batch| Ok(PublishResponse { results: results(batch) }));
            let mut config = BatchConfig::default();
            config.transaction_enabled = transactional;
            let client = BatchClient::new(fake as Arc<dyn Transport>, config).unwrap();
            (0..3).for_each(|name| client.queue(event(name), None).unwrap());
            client.start();
            client.stop(STOP).await;
        });
        assert_eq!(recorded.total("chip_ingress.batch.results_mismatch_total", &[]), mismatches, "answer {number}");
    }
}

/// The first 500 pairs of domain and entity have labels of their own; the others share a label.
#[test]
fn pairs_of_labels_are_bounded() {
    let recorded = recorded(async |_| {
        let (_directory, pool) = sqlite().await;
        let emitter = emitter::DurableEmitter::builder(pool, Fake::ok() as Arc<dyn Transport>)
            .configure(quick)
            .start()
            .await
            .unwrap();
        let emits = (0..600).map(|number| emitter.publish(of("cap", &format!("type{number}"), "")));
        futures_util::future::try_join_all(emits).await.unwrap();
        emitter.stop(STOP).await;
    });
    let pairs: BTreeSet<_> =
        recorded.0["durable_emitter.emit.success"].iter().map(|(_, labels, _)| labels["entity"].clone()).collect();
    assert!(pairs.len() <= 501 && pairs.contains("other"), "{}", pairs.len());
    assert_eq!(recorded.total("durable_emitter.emit.success", &[]), 600.0);
}
