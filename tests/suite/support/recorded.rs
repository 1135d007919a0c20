//! The values that pass the `metrics` facade while a test runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use eventbox::metrics::{Instrument, InstrumentKind};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

pub(crate) type Labels = BTreeMap<String, String>;

/// Recorded values by the name of the instrument: kind, labels and value. A histogram has the number of its values.
#[derive(Default)]
pub(crate) struct Recorded(pub(crate) BTreeMap<String, Vec<(MetricKind, Labels, f64)>>);

impl Recorded {
    /// Returns the sum over all series that have these labels.
    pub(crate) fn total(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let matches =
            |labels: &Labels| wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
        self.0.get(name).into_iter().flatten().filter(|(_, labels, _)| matches(labels)).map(|(_, _, value)| value).sum()
    }

    /// Checks that the recorded instruments and the table are the same, with kinds and all labels.
    pub(crate) fn matches_exactly(&self, table: &[Instrument]) {
        for (name, instrument) in self.matches_by_name(table) {
            for (_, labels, _) in &self.0[name] {
                let found: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
                assert_eq!(found, instrument.labels.iter().copied().collect(), "{name}");
            }
        }
    }

    /// Checks the same where a series may lack some labels, and each label was recorded at least once.
    pub(crate) fn matches_with_optional_labels(&self, table: &[Instrument]) {
        for (name, instrument) in self.matches_by_name(table) {
            let labels = self.0[name].iter().flat_map(|(_, labels, _)| labels.keys().map(String::as_str));
            let wanted: BTreeSet<&str> = instrument.labels.iter().copied().collect();
            assert_eq!(labels.collect::<BTreeSet<_>>(), wanted, "{name}");
        }
    }

    /// Checks that the recorded instruments and the table are the same, with kinds. Returns the table by name.
    fn matches_by_name<'a>(&self, table: &'a [Instrument]) -> BTreeMap<&'a str, &'a Instrument> {
        let by_name: BTreeMap<_, _> = table.iter().map(|instrument| (instrument.name, instrument)).collect();
        assert_eq!(by_name.len(), table.len(), "a name is there twice");
        for (name, series) in &self.0 {
            let instrument = by_name.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
            let wanted = match instrument.kind {
                InstrumentKind::Counter => MetricKind::Counter,
                InstrumentKind::Gauge => MetricKind::Gauge,
                _ => MetricKind::Histogram,
            };
            assert!(series.iter().all(|(kind, _, _)| *kind == wanted), "{name}: {series:?}");
        }
        let missing: Vec<_> = by_name.keys().filter(|name| !self.0.contains_key(**name)).collect();
        assert!(missing.is_empty(), "never recorded: {missing:?}");
        by_name
    }

    /// Adds the values recorded since the last call. A snapshot resets the counts; the gauges keep their values.
    fn read(&mut self, snapshotter: &Snapshotter, gauges: &Gauges) {
        for (key, bits) in gauges.lock().unwrap().iter() {
            let labels: Labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
            let value = f64::from_bits(bits.load(Ordering::SeqCst));
            let series = self.0.entry(key.name().to_owned()).or_default();
            match series.iter_mut().find(|(_, known, _)| *known == labels) {
                Some(known) => known.2 = value,
                None => series.push((MetricKind::Gauge, labels, value)),
            }
        }
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let (kind, key) = key.into_parts();
            let labels: Labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            let series = self.0.entry(key.name().to_owned()).or_default();
            match series.iter_mut().find(|(_, known, _)| *known == labels) {
                Some(known) => known.2 += value,
                None => series.push((kind, labels, value)),
            }
        }
    }
}

type Gauges = Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>;

/// A recorder whose gauges keep their values: a snapshot of the one of `metrics-util` sets them to 0.
struct Keeping(DebuggingRecorder, Gauges);

impl Recorder for Keeping {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.0.describe_counter(key, unit, help);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.0.describe_histogram(key, unit, help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(self.1.lock().unwrap().entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(key, metadata)
    }
}

/// The recording while it goes on.
#[derive(Clone)]
pub(crate) struct Recording(Arc<Mutex<Recorded>>, Snapshotter, Gauges);

impl Recording {
    /// Returns the current sum over all series of a name.
    pub(crate) fn total(&self, name: &str) -> f64 {
        let mut recorded = self.0.lock().unwrap();
        recorded.read(&self.1, &self.2);
        recorded.total(name, &[])
    }

    /// Returns the current value of the one series with these labels, or `None` if it was never recorded.
    pub(crate) fn gauge(&self, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
        let mut recorded = self.0.lock().unwrap();
        recorded.read(&self.1, &self.2);
        recorded.0.contains_key(name).then(|| recorded.total(name, wanted))
    }
}

/// Runs a body on one thread, so that a recorder of its own gets all of its values.
pub(crate) fn recorded(body: impl AsyncFnOnce(&Recording)) -> Recorded {
    let recorder = DebuggingRecorder::new();
    let recording = Recording(Arc::default(), recorder.snapshotter(), Gauges::default());
    let recorder = Keeping(recorder, Arc::clone(&recording.2));
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(&recording));
    });
    let Recording(recorded, snapshotter, gauges) = recording;
    let mut recorded = std::mem::take(&mut *recorded.lock().unwrap());
    recorded.read(&snapshotter, &gauges);
    recorded
}

/// Waits until a gauge has a value that is wanted.
pub(crate) async fn becomes(recording: &Recording, gauge: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) {
    super::eventually(super::SOON, async || recording.gauge(gauge, labels).is_some_and(&wanted)).await;
}

/// Runs functions of a database and a recording on every engine, each with a recorder of its own.
macro_rules! recorded_on_every_engine {
    ($($name:ident)+) => {$(
        mod $name {
            #[cfg(feature = "postgres")]
            #[test]
            fn postgres() {
                crate::support::recorded::recorded(async |recording| {
                    let body = async |db: &crate::support::TestDb<sqlx::Postgres>| super::$name(db, recording).await;
                    crate::support::with_database(stringify!($name), body).await;
                });
            }

            #[cfg(feature = "sqlite")]
            #[test]
            fn sqlite() {
                crate::support::recorded::recorded(async |recording| {
                    let body = async |db: &crate::support::TestDb<sqlx::Sqlite>| super::$name(db, recording).await;
                    crate::support::with_database(stringify!($name), body).await;
                });
            }
        }
    )+};
}
pub(crate) use recorded_on_every_engine;
