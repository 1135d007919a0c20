//! Every instrument of the emitter, and the one place where each is recorded.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::batch_config::BatchConfig;
use super::instruments::{self as names, INSTRUMENTS, Kind};
use super::outcome::SendError;
use crate::store::Tally;

/// The most pairs of domain and entity that have labels of their own; the rest is `other`.
pub const MAX_LABEL_PAIRS: usize = 500;

/// Tells the recorder what every instrument is. The emitter does it at its start.
pub fn describe() {
    for instrument in INSTRUMENTS {
        let unit = match instrument.unit {
            "s" => Unit::Seconds,
            "ms" => Unit::Milliseconds,
            "By" => Unit::Bytes,
            _ => Unit::Count,
        };
        match instrument.kind {
            Kind::Counter => describe_counter!(instrument.name, unit, instrument.help),
            Kind::Gauge => describe_gauge!(instrument.name, unit, instrument.help),
            Kind::Histogram => describe_histogram!(instrument.name, unit, instrument.help),
        }
    }
}

/// How a request went.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestStatus {
    Success,
    Partial,
    Failure,
}

impl RequestStatus {
    fn label(self) -> Label {
        let status = match self {
            RequestStatus::Success => "success",
            RequestStatus::Partial => "partial",
            RequestStatus::Failure => "failure",
        };
        Label::from_static_parts("status", status)
    }
}

/// The instruments of a batch client.
#[derive(Debug, Clone)]
pub(super) struct BatchMetrics {
    client: Vec<Label>,
}

impl BatchMetrics {
    pub(super) fn new(client_name: Option<&str>) -> Self {
        BatchMetrics { client: client_label(client_name) }
    }

    fn with(&self, labels: impl IntoIterator<Item = Label>) -> Vec<Label> {
        self.client.iter().cloned().chain(labels).collect()
    }

    pub(super) fn config_info(&self, config: &BatchConfig) {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let labels = self.with([
            Label::new("max_batch_size", config.batch_size.to_string()),
            Label::new("message_buffer_size", config.message_buffer.to_string()),
            Label::new("max_concurrent_sends", config.max_concurrent_sends.to_string()),
            Label::new("batch_interval_ms", millis(config.batch_interval)),
            Label::new("max_publish_timeout_ms", millis(config.publish_timeout)),
            Label::new("shutdown_timeout_ms", millis(config.shutdown_timeout)),
            Label::new("clone_event", "false"),
            Label::new("transaction_enabled", config.transaction_enabled.to_string()),
            Label::new("max_grpc_request_size_bytes", config.request_limit().to_string()),
        ]);
        gauge!(names::BATCH_CONFIG, labels).set(1.0);
    }

    /// A request that was made.
    pub(super) fn request(
        &self,
        status: RequestStatus,
        events: usize,
        bytes: usize,
        took: Duration,
        config: &BatchConfig,
    ) {
        counter!(names::BATCH_REQUESTS, self.with([status.label()])).increment(1);
        histogram!(names::BATCH_LATENCY, self.with([status.label()])).record(took.as_secs_f64() * 1000.0);
        let size = Label::new("max_batch_size", config.batch_size.to_string());
        histogram!(names::BATCH_MESSAGES, self.with([size])).record(whole(events));
        let limit = Label::new("max_grpc_request_size_bytes", config.request_limit().to_string());
        histogram!(names::BATCH_BYTES, self.with([limit])).record(whole(bytes));
    }

    /// A request that was not made, because it is too large.
    pub(super) fn not_sent(&self, events: usize, bytes: usize, config: &BatchConfig) {
        self.request(RequestStatus::Failure, events, bytes, Duration::ZERO, config);
    }

    pub(super) fn split(&self) {
        counter!(names::BATCH_SPLITS, self.client.clone()).increment(1);
    }

    /// The breaker opened for an error, or did not.
    pub(super) fn opened(&self, opened: bool, error: &SendError) {
        if opened {
            counter!(names::BREAKER_OPENED, self.with([Label::new("code", error.code())])).increment(1);
        }
    }

    pub(super) fn mismatch(&self) {
        counter!(names::BATCH_MISMATCH, self.client.clone()).increment(1);
    }
}

/// How a message came to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Batch,
    Retransmit,
}

impl Phase {
    fn label(self) -> Label {
        Label::from_static_parts("phase", if self == Phase::Batch { "batch" } else { "retransmit" })
    }
}

/// The instruments of a durable emitter.
#[derive(Debug, Clone)]
pub(super) struct EmitterMetrics {
    client: Vec<Label>,
}

impl EmitterMetrics {
    pub(super) fn new(client_name: Option<&str>) -> Self {
        EmitterMetrics { client: client_label(client_name) }
    }

    pub(super) fn emitted(&self, pair: &Pair, failed: bool, took: Duration) {
        let name = if failed { names::EMIT_FAILURE } else { names::EMIT_SUCCESS };
        counter!(name, Vec::from(pair.labels())).increment(1);
        histogram!(names::EMIT_TOTAL_DURATION).record(took.as_secs_f64());
    }

    pub(super) fn inserted(&self, failed: bool, took: Duration) {
        histogram!(names::EMIT_DURATION, vec![error_label(failed)]).record(took.as_secs_f64());
    }

    pub(super) fn published(&self, phase: Phase, pair: &Pair, failed: bool, took: Duration) {
        let name = if failed { names::PUBLISH_FAILURE } else { names::PUBLISH_SUCCESS };
        let with = |more: &[Label]| [self.client.as_slice(), &[phase.label()], more].concat();
        counter!(name, with(&pair.labels())).increment(1);
        histogram!(names::PUBLISH_DURATION, with(&[error_label(failed)])).record(took.as_secs_f64());
    }

    /// Rows that were delivered; answers how many.
    pub(super) fn delivered(&self, tallies: &[Tally]) -> u64 {
        tally(names::DELIVERED, tallies)
    }

    pub(super) fn dead_lettered(&self, code: &str, pair: &Pair) {
        let [domain, entity] = pair.labels();
        counter!(names::DEAD_LETTERED, vec![Label::new("code", code.to_owned()), domain, entity]).increment(1);
    }

    /// Rows that expired; answers how many.
    pub(super) fn expired(&self, tallies: &[Tally]) -> u64 {
        tally(names::EXPIRED, tallies)
    }

    pub(super) fn buffer_full(&self, phase: Phase, pair: &Pair) {
        let [domain, entity] = pair.labels();
        counter!(names::BUFFER_FULL, vec![phase.label(), domain, entity]).increment(1);
    }

    pub(super) fn async_dropped(&self, pair: &Pair) {
        counter!(names::ASYNC_DROPPED, Vec::from(pair.labels())).increment(1);
    }

    /// A second chance by the unary call.
    pub(super) fn published_alone(&self, failed: bool) {
        counter!(if failed { names::IMMEDIATE_FAILURE } else { names::IMMEDIATE_SUCCESS }).increment(1);
    }

    /// A claim of due rows: made, and with room for all of them, or not.
    pub(super) fn retransmitted(&self, failed: bool) {
        counter!(if failed { names::RETRANSMIT_FAILURE } else { names::RETRANSMIT_SUCCESS }).increment(1);
    }

    pub(super) fn store_operation(&self, operation: &'static str, failed: bool, took: Duration) {
        let operation = Label::from_static_parts("operation", operation);
        counter!(names::STORE_OPERATIONS, vec![operation.clone(), error_label(failed)]).increment(1);
        histogram!(names::STORE_DURATION, vec![operation]).record(took.as_secs_f64());
    }

    pub(super) fn fallbacks_in_flight(&self, change: f64) {
        gauge!(names::FALLBACK_IN_FLIGHT).increment(change);
    }

    pub(super) fn gauge(&self, name: &'static str, value: f64) {
        gauge!(name).set(value);
    }
}

fn tally(name: &'static str, tallies: &[Tally]) -> u64 {
    for tally in tallies {
        counter!(name, Vec::from(Pair::of(&tally.source, &tally.r#type).labels())).increment(tally.rows);
    }
    tallies.iter().map(|tally| tally.rows).sum()
}

/// A domain and an entity as labels, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    domain: Arc<str>,
    entity: Arc<str>,
}

/// The pairs of the process that have labels of their own: by domain, then by entity.
#[derive(Default)]
struct Pairs {
    known: HashMap<String, HashMap<String, Pair>>,
    count: usize,
}

impl Pair {
    /// The pair, or `other` for all beyond the first [`MAX_LABEL_PAIRS`] of the process.
    pub(super) fn of(source: &str, event_type: &str) -> Self {
        static PAIRS: LazyLock<RwLock<Pairs>> = LazyLock::new(RwLock::default);
        let find = |pairs: &Pairs| pairs.known.get(source).and_then(|types| types.get(event_type)).cloned();
        let known = {
            let pairs = PAIRS.read().unwrap_or_else(PoisonError::into_inner);
            find(&pairs).or_else(|| (pairs.count >= MAX_LABEL_PAIRS).then(Pair::other))
        };
        known.unwrap_or_else(|| {
            let mut pairs = PAIRS.write().unwrap_or_else(PoisonError::into_inner);
            find(&pairs).unwrap_or_else(|| pairs.add(source, event_type))
        })
    }

    fn other() -> Self {
        static OTHER: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("other"));
        Pair { domain: Arc::clone(&OTHER), entity: Arc::clone(&OTHER) }
    }

    fn labels(&self) -> [Label; 2] {
        [Label::new("domain", Arc::clone(&self.domain)), Label::new("entity", Arc::clone(&self.entity))]
    }
}

impl Pairs {
    fn add(&mut self, source: &str, event_type: &str) -> Pair {
        if self.count >= MAX_LABEL_PAIRS {
            return Pair::other();
        }
        self.count += 1;
        let pair = Pair { domain: Arc::from(source), entity: Arc::from(event_type) };
        self.known.entry(source.to_owned()).or_default().insert(event_type.to_owned(), pair.clone());
        pair
    }
}

fn client_label(name: Option<&str>) -> Vec<Label> {
    name.map(|name| Label::new("client_name", name.to_owned())).into_iter().collect()
}

fn error_label(failed: bool) -> Label {
    Label::from_static_parts("error", if failed { "true" } else { "false" })
}

/// A count as a metric takes it; exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn whole(count: usize) -> f64 {
    count as f64
}
