//! The text that Prometheus scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::{NoopTransport, Transport};
use eventbox::emitter::{DurableEmitter, MetricsConfig};
use eventbox::metrics::{Instrument, InstrumentKind};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, prometheus};
use metrics::{Key, Label, Level, Metadata, Recorder};

use crate::support::running::{STOP, config};
use crate::support::{CellEngine, SOON, TestDb, eventually, with_database};

/// Returns all instruments of the library.
pub(crate) fn instruments() -> Vec<Instrument> {
    let inbox = [eventbox::metrics::INSTRUMENTS, eventbox::runtime::INSTRUMENTS, eventbox::admin::INSTRUMENTS].concat();
    let outbox = [eventbox::chip::INSTRUMENTS, eventbox::emitter::INSTRUMENTS].concat();
    [inbox, outbox].concat()
}

/// Returns the name under which Prometheus knows an instrument.
pub(crate) fn exposed(name: &str) -> String {
    name.replace('.', "_")
}

/// A text of Prometheus, taken apart.
struct Scrape {
    help: BTreeMap<String, String>,
    kinds: BTreeMap<String, String>,
    /// Values by name and labels, as in the text.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(text: &str) -> Self {
        let mut scrape = Scrape { help: BTreeMap::new(), kinds: BTreeMap::new(), samples: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
                assert!(scrape.help.insert(name.to_owned(), help.to_owned()).is_none(), "{name} twice");
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                assert!(scrape.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(scrape.samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "{sample} twice");
            }
        }
        scrape
    }

    /// Returns the value of the one series with this name whose labels have this text.
    fn value(&self, name: &str, labels: &str) -> f64 {
        let is_it = |sample: &&String| {
            let (of, rest) = sample.split_once('{').unwrap_or((sample, ""));
            of == name && rest.contains(labels)
        };
        let found: Vec<_> = self.samples.keys().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{name} {labels}: {found:?}");
        self.samples[found[0]]
    }

    /// Returns the upper ends of the buckets of a histogram.
    fn buckets(&self, name: &str) -> BTreeSet<String> {
        let of = format!("{name}_bucket{{");
        let end = |sample: &String| sample.split("le=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        self.samples.keys().filter(|sample| sample.starts_with(&of)).map(end).collect()
    }
}

/// Checks the description of an instrument in a text.
fn is_described(scrape: &Scrape, instrument: &Instrument) {
    let name = exposed(instrument.name);
    assert_eq!(scrape.help.get(&name).map(String::as_str), Some(instrument.help), "{name}");
    let kind = match instrument.kind {
        InstrumentKind::Counter => "counter",
        InstrumentKind::Gauge => "gauge",
        _ => "histogram",
    };
    assert_eq!(scrape.kinds.get(&name).map(String::as_str), Some(kind), "{name}");
    if kind == "histogram" {
        let ends = instrument.buckets.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        assert_eq!(scrape.buckets(&name), ends.collect(), "{name}");
    }
}

/// Whatever is recorded has a description, and a histogram is one with buckets, not a summary.
#[test]
fn every_instrument_has_its_description_and_its_buckets() {
    let recorder = prometheus::recorder().unwrap();
    let metadata = Metadata::new("tests", Level::INFO, None);
    for instrument in instruments() {
        let labels: Vec<_> = instrument.labels.iter().map(|label| Label::new(*label, "x")).collect();
        let key = Key::from_parts(instrument.name, labels);
        match instrument.kind {
            InstrumentKind::Counter => recorder.register_counter(&key, &metadata).increment(1),
            InstrumentKind::Gauge => recorder.register_gauge(&key, &metadata).set(1.0),
            _ => recorder.register_histogram(&key, &metadata).record(1.0),
        }
    }
    let scrape = Scrape::of(&recorder.handle().render());
    for instrument in instruments() {
        is_described(&scrape, &instrument);
    }
    assert_eq!(scrape.kinds.len(), instruments().len(), "two names that become one");
}

/// Consumes events, and publishes one message for all of them.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let message = CloudEvent::builder("tests", "published").build()?;
        Ok(Outcome::to(count + events.len() as u64).consuming(events).publishing([message]))
    }
}

async fn a_known_run<B: CellEngine>(db: &TestDb<B>) {
    let transport = Arc::new(NoopTransport) as Arc<dyn Transport>;
    let emitter = DurableEmitter::builder(db.pool.clone(), transport).configure(|config| {
        config.metrics = Some(MetricsConfig::default().with_poll_interval(Duration::from_millis(5)));
    });
    let emitter = emitter.start().await.unwrap();
    for _ in 0..2 {
        let event = Event::new("x").named("n");
        B::emit_on(&db.pool, &Recipient::new("pub", "1").unwrap(), event).await.unwrap();
    }
    let events: Vec<_> = (0..3).map(|n| (Recipient::new("pub", n.to_string()).unwrap(), Event::new("x"))).collect();
    B::emit_all(&mut *db.pool.acquire().await.unwrap(), &events).await.unwrap();
    let runtime = Runtime::builder(db.open(5)).reducer("pub", Publisher).emitter(emitter.clone()).config(config());
    let runtime = runtime.start().await.unwrap();
    eventually(SOON, async || runtime.stats().consumed == 4 && emitter.stats().delivered == runtime.stats().turns)
        .await;
    assert!(runtime.stop(STOP).await.complete);
    assert!(emitter.stop(STOP).await.complete);
}

/// Runs a body on one thread, with a recorder of its own. Returns the text at its end.
fn scraped(body: impl AsyncFnOnce()) -> Scrape {
    let recorder = prometheus::recorder().unwrap();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    Scrape::of(&recorder.handle().render())
}

fn the_text_tells_what_happened(scrape: &Scrape) {
    let by_name: BTreeMap<_, _> = instruments().into_iter().map(|one| (exposed(one.name), one)).collect();
    for name in scrape.kinds.keys() {
        let instrument = by_name.get(name).unwrap_or_else(|| panic!("{name} is in no table"));
        is_described(scrape, instrument);
    }
    let of_kind = r#"kind="pub""#;
    assert_eq!(scrape.value("eventbox_sent_total", of_kind), 4.0);
    assert_eq!(scrape.value("eventbox_duplicates_total", of_kind), 1.0);
    assert_eq!(scrape.value("eventbox_removed_total", of_kind), 4.0);
    assert_eq!(scrape.value("eventbox_emit_to_commit_seconds_count", of_kind), 4.0);
    assert_eq!(scrape.value("eventbox_emit_to_commit_seconds_bucket", r#"le="+Inf""#), 4.0);
    let waited = scrape.value("eventbox_emit_to_commit_seconds_sum", of_kind);
    assert!(waited > 0.0 && waited < 4.0 * SOON.as_secs_f64(), "{waited} s, not in milliseconds");
    assert!(scrape.value("eventbox_phase_seconds_count", r#"phase="committing""#) >= 1.0);
    assert_eq!(scrape.value("eventbox_runtime_members", ""), 1.0);
    let turns = scrape.value("eventbox_transitions_total", of_kind);
    // The type is a label, unless another test of this process took the last of the pairs.
    assert_eq!(scrape.value("durable_emitter_delivery_completed", ""), turns);
    assert_eq!(scrape.value("durable_emitter_publish_batch_events_success", ""), turns);
    assert!(scrape.value("chip_ingress_batch_request_size_bytes_sum", "") > 0.0);
    assert_eq!(scrape.value("durable_emitter_queue_depth", ""), 0.0);
    // Before the first group of a Sender.
    assert_eq!(scrape.value("eventbox_send_group_events_count", ""), 0.0);
    assert!(!scrape.samples.keys().any(|sample| sample.contains("shard=")), "{:?}", scrape.samples.keys());
}

#[cfg(feature = "postgres")]
#[test]
fn the_text_tells_what_happened_on_postgres() {
    let scrape = scraped(async || with_database::<sqlx::Postgres, _>("scrape", a_known_run).await);
    the_text_tells_what_happened(&scrape);
}

#[cfg(feature = "sqlite")]
#[test]
fn the_text_tells_what_happened_on_sqlite() {
    the_text_tells_what_happened(&scraped(async || with_database::<sqlx::Sqlite, _>("scrape", a_known_run).await));
}

/// Names that the specifications give, against the conventions of Prometheus.
const SPECIFIED: [&str; 13] = [
    "chip_ingress.batch.request_latency_ms",
    "durable_emitter.emit.success",
    "durable_emitter.emit.failure",
    "durable_emitter.emit.duration",
    "durable_emitter.emit.total_duration",
    "durable_emitter.publish.immediate",
    "durable_emitter.publish.retransmit.batch",
    "durable_emitter.publish.duration",
    "durable_emitter.publish.batch.events",
    "durable_emitter.delivery.completed",
    "durable_emitter.expired_purged",
    "durable_emitter.store.operation",
    "durable_emitter.batch_enqueue.buffer_full",
];

/// Counters end with `_total` and nothing else does; times are in seconds and sizes in bytes, and the names say so.
#[test]
fn names_follow_the_conventions() {
    for instrument in instruments() {
        let name = instrument.name;
        if SPECIFIED.iter().any(|specified| name.starts_with(specified)) {
            continue;
        }
        assert!(exposed(name).chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'), "{name}");
        assert_eq!(instrument.kind == InstrumentKind::Counter, name.ends_with("_total"), "{name}");
        assert!(!["_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)), "{name}");
        assert!(instrument.kind != InstrumentKind::Histogram || !instrument.buckets.is_empty(), "{name}");
        assert!(instrument.buckets.is_sorted(), "{name}");
        match instrument.unit {
            "s" => assert!(name.trim_end_matches("_total").ends_with("_seconds"), "{name}"),
            "By" => assert!(name.ends_with("_bytes"), "{name}"),
            unit => assert!(unit == "1" || (unit.starts_with('{') && unit.ends_with('}')), "{name} in {unit}"),
        }
    }
}
