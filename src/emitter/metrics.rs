//! Every instrument of the emitter, and the one place where each is recorded.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::batch_config::BatchConfig;
use super::instruments::{self as names, INSTRUMENTS, Kind};

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

    pub(super) fn emitted(&self, source: &str, event_type: &str, failed: bool, took: Duration) {
        let name = if failed { names::EMIT_FAILURE } else { names::EMIT_SUCCESS };
        counter!(name, Vec::from(pair_labels(source, event_type))).increment(1);
        histogram!(names::EMIT_TOTAL_DURATION).record(took.as_secs_f64());
    }

    pub(super) fn inserted(&self, failed: bool, took: Duration) {
        histogram!(names::EMIT_DURATION, vec![error_label(failed)]).record(took.as_secs_f64());
    }

    pub(super) fn published(&self, phase: Phase, source: &str, event_type: &str, failed: bool, took: Duration) {
        let name = if failed { names::PUBLISH_FAILURE } else { names::PUBLISH_SUCCESS };
        let mut labels = self.client.clone();
        labels.push(phase.label());
        let mut duration = labels.clone();
        duration.push(error_label(failed));
        labels.extend(pair_labels(source, event_type));
        counter!(name, labels).increment(1);
        histogram!(names::PUBLISH_DURATION, duration).record(took.as_secs_f64());
    }

    pub(super) fn delivered(&self, rows: u64) {
        counter!(names::DELIVERED).increment(rows);
    }

    pub(super) fn dead_lettered(&self, code: &str) {
        counter!(names::DEAD_LETTERED, vec![Label::new("code", code.to_owned())]).increment(1);
    }

    pub(super) fn expired(&self, rows: u64) {
        counter!(names::EXPIRED).increment(rows);
    }

    pub(super) fn buffer_full(&self, phase: Phase) {
        counter!(names::BUFFER_FULL, vec![phase.label()]).increment(1);
    }

    pub(super) fn async_dropped(&self) {
        counter!(names::ASYNC_DROPPED).increment(1);
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

/// The labels of a domain and an entity, or `other` for all beyond the first [`MAX_LABEL_PAIRS`] of the process.
fn pair_labels(source: &str, event_type: &str) -> [Label; 2] {
    static SEEN: LazyLock<Mutex<HashSet<(String, String)>>> = LazyLock::new(Mutex::default);
    let pair = (source.to_owned(), event_type.to_owned());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = seen.contains(&pair) || (seen.len() < MAX_LABEL_PAIRS && seen.insert(pair.clone()));
    let (domain, entity) = if own { pair } else { ("other".to_owned(), "other".to_owned()) };
    [Label::new("domain", domain), Label::new("entity", entity)]
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
