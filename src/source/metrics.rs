//! Metrics of sources.

use metrics::{counter, gauge};

use crate::instrument::instruments;

const SOURCE: &str = "source";
const NONE: &[f64] = &[];

instruments! {
    /// All instruments of sources.
    EVENTS = "eventbox_source_events_total", Counter, "{event}", ["source"], NONE,
        "Events of a source that this process emitted, with those that were there already";
    ROUNDS = "eventbox_source_rounds_total", Counter, "{round}", ["source"], NONE,
        "Rounds of a source that this process committed";
    OVERTAKEN = "eventbox_source_overtaken_total", Counter, "{move}", ["source"], NONE,
        "Times that this process began anew, because another process or an operator had moved a checkpoint";
    FAILURES = "eventbox_source_failures_total", Counter, "{failure}", ["source"], NONE,
        "Failures to read a partition of a source, or to commit a round";
    PARTITIONS = "eventbox_source_partitions", Gauge, "{partition}", ["source", "state"], NONE,
        "Partitions that this process reads: state `reading` or `failing`";
    LAG = "eventbox_source_lag", Gauge, "1", ["source", "partition"], NONE,
        "Distance of a partition to its end, in a unit of the source's own; 0 when another process reads it";
}

/// The metrics of one source.
#[derive(Debug, Clone)]
pub(super) struct SourceMetrics {
    source: String,
}

impl SourceMetrics {
    /// Makes the metrics, and the counters with 0.
    pub(super) fn new(source: &str) -> Self {
        let metrics = SourceMetrics { source: source.to_owned() };
        [EVENTS, ROUNDS, OVERTAKEN, FAILURES].into_iter().for_each(|name| metrics.count(name, 0));
        metrics
    }

    fn count(&self, name: &'static str, by: usize) {
        counter!(name, SOURCE => self.source.clone()).increment(by as u64);
    }

    pub(super) fn committed(&self, events: usize) {
        self.count(ROUNDS, 1);
        self.count(EVENTS, events);
    }

    pub(super) fn overtaken(&self) {
        self.count(OVERTAKEN, 1);
    }

    pub(super) fn failed(&self) {
        self.count(FAILURES, 1);
    }

    pub(super) fn lag(&self, partition: &str, lag: u64) {
        let gauge = gauge!(LAG, SOURCE => self.source.clone(), "partition" => partition.to_owned());
        gauge.set(crate::instrument::whole(usize::try_from(lag).unwrap_or(usize::MAX)));
    }

    pub(super) fn partitions(&self, reading: usize, failing: usize) {
        for (state, count) in [("reading", reading), ("failing", failing)] {
            let gauge = gauge!(PARTITIONS, SOURCE => self.source.clone(), "state" => state);
            gauge.set(crate::instrument::whole(count));
        }
    }
}
