//! Records every instrument of the emitter.

pub(crate) mod instruments;
pub(crate) mod process_usage;
pub(crate) mod stats;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Label, counter, gauge, histogram};

use crate::chip::metrics::client_label;
use crate::emitter::metrics::instruments::{self as names, INSTRUMENTS};
use crate::instrument;
use crate::store::RowCount;

/// Most pairs of domain and entity with labels of their own. Further pairs are `other`.
pub const MAX_LABEL_PAIRS: usize = 500;

/// Describes every instrument to the recorder. The emitter calls it at its start.
pub fn describe() {
    metrics::with_recorder(|recorder| {
        for instrument in crate::chip::INSTRUMENTS.iter().chain(INSTRUMENTS) {
            instrument::describe(recorder, instrument);
        }
    });
}

/// Reason of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendPhase {
    Batch,
    Retransmit,
}

impl SendPhase {
    fn label(self) -> Label {
        Label::from_static_parts("phase", if self == SendPhase::Batch { "batch" } else { "retransmit" })
    }
}

/// The instruments of a durable emitter.
#[derive(Debug, Clone)]
pub(crate) struct EmitterMetrics {
    client: Vec<Label>,
}

impl EmitterMetrics {
    pub(crate) fn new(client_name: Option<&str>) -> Self {
        EmitterMetrics { client: client_label(client_name) }
    }

    pub(crate) fn emitted(&self, pair: &SourceType, failed: bool, took: Duration) {
        let name = if failed { names::EMIT_FAILURE } else { names::EMIT_SUCCESS };
        counter!(name, Vec::from(pair.labels())).increment(1);
        histogram!(names::EMIT_TOTAL_DURATION).record(took.as_secs_f64());
    }

    pub(crate) fn inserted(&self, failed: bool, took: Duration) {
        histogram!(names::EMIT_DURATION, vec![error_label(failed)]).record(took.as_secs_f64());
    }

    pub(crate) fn published(&self, phase: SendPhase, pair: &SourceType, failed: bool, took: Duration) {
        let name = if failed { names::PUBLISH_FAILURE } else { names::PUBLISH_SUCCESS };
        let with = |more: &[Label]| [self.client.as_slice(), &[phase.label()], more].concat();
        counter!(name, with(&pair.labels())).increment(1);
        histogram!(names::PUBLISH_DURATION, with(&[error_label(failed)])).record(took.as_secs_f64());
    }

    /// Counts delivered rows by their pairs, `removed` rows in all. Some rows may have left the outbox before; the
    /// last pairs lack them.
    pub(crate) fn delivered(&self, pairs: &[(SourceType, u64)], removed: u64) {
        let mut left = removed;
        for (pair, rows) in pairs {
            let counted = left.min(*rows);
            left -= counted;
            if counted > 0 {
                counter!(names::DELIVERED, Vec::from(pair.labels())).increment(counted);
            }
        }
    }

    pub(crate) fn dead_lettered(&self, code: &str, pair: &SourceType) {
        let [domain, entity] = pair.labels();
        counter!(names::DEAD_LETTERED, vec![Label::new("code", code.to_owned()), domain, entity]).increment(1);
    }

    /// Counts expired rows, and returns their number.
    pub(crate) fn expired(&self, tallies: &[RowCount]) -> u64 {
        tally(names::EXPIRED, tallies)
    }

    pub(crate) fn buffer_full(&self, phase: SendPhase, pair: &SourceType) {
        let [domain, entity] = pair.labels();
        counter!(names::BUFFER_FULL, vec![phase.label(), domain, entity]).increment(1);
    }

    pub(crate) fn async_dropped(&self, pair: &SourceType) {
        counter!(names::ASYNC_DROPPED, Vec::from(pair.labels())).increment(1);
    }

    /// Counts a second attempt by the unary call.
    pub(crate) fn published_alone(&self, failed: bool) {
        counter!(if failed { names::IMMEDIATE_FAILURE } else { names::IMMEDIATE_SUCCESS }).increment(1);
    }

    /// Counts a claim of due rows; `failed` also when some rows found no place.
    pub(crate) fn retransmitted(&self, failed: bool) {
        counter!(if failed { names::RETRANSMIT_FAILURE } else { names::RETRANSMIT_SUCCESS }).increment(1);
    }

    pub(crate) fn store_operation(&self, operation: &'static str, failed: bool, took: Duration) {
        let operation = Label::from_static_parts("operation", operation);
        counter!(names::STORE_OPERATIONS, vec![operation.clone(), error_label(failed)]).increment(1);
        histogram!(names::STORE_DURATION, vec![operation]).record(took.as_secs_f64());
    }

    pub(crate) fn fallbacks_in_flight(&self, change: f64) {
        gauge!(names::FALLBACK_IN_FLIGHT).increment(change);
    }

    pub(crate) fn gauge(&self, name: &'static str, value: f64) {
        gauge!(name).set(value);
    }
}

fn tally(name: &'static str, tallies: &[RowCount]) -> u64 {
    for tally in tallies {
        counter!(name, Vec::from(SourceType::of(&tally.source, &tally.r#type).labels())).increment(tally.rows);
    }
    tallies.iter().map(|tally| tally.rows).sum()
}

/// A domain and an entity, the source and the type of events, as labels. Cheap to clone and to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceType {
    domain: Arc<str>,
    entity: Arc<str>,
}

/// Pairs of the process with labels of their own, by domain, then by entity.
#[derive(Default)]
struct SourceTypes {
    known: HashMap<String, HashMap<String, SourceType>>,
    count: usize,
}

impl SourceType {
    /// Returns the pair, or `other` beyond the first [`MAX_LABEL_PAIRS`] of the process.
    pub(crate) fn of(source: &str, event_type: &str) -> Self {
        static PAIRS: LazyLock<RwLock<SourceTypes>> = LazyLock::new(RwLock::default);
        let find = |pairs: &SourceTypes| pairs.known.get(source).and_then(|types| types.get(event_type)).cloned();
        let known = {
            let pairs = PAIRS.read().unwrap_or_else(PoisonError::into_inner);
            find(&pairs).or_else(|| (pairs.count >= MAX_LABEL_PAIRS).then(SourceType::other))
        };
        known.unwrap_or_else(|| {
            let mut pairs = PAIRS.write().unwrap_or_else(PoisonError::into_inner);
            find(&pairs).unwrap_or_else(|| pairs.add(source, event_type))
        })
    }

    fn other() -> Self {
        static OTHER: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("other"));
        SourceType { domain: Arc::clone(&OTHER), entity: Arc::clone(&OTHER) }
    }

    fn labels(&self) -> [Label; 2] {
        [Label::new("domain", Arc::clone(&self.domain)), Label::new("entity", Arc::clone(&self.entity))]
    }
}

impl SourceTypes {
    fn add(&mut self, source: &str, event_type: &str) -> SourceType {
        if self.count >= MAX_LABEL_PAIRS {
            return SourceType::other();
        }
        self.count += 1;
        let pair = SourceType { domain: Arc::from(source), entity: Arc::from(event_type) };
        self.known.entry(source.to_owned()).or_default().insert(event_type.to_owned(), pair.clone());
        pair
    }
}

fn error_label(failed: bool) -> Label {
    Label::from_static_parts("error", if failed { "true" } else { "false" })
}
