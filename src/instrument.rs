//! The description of an instrument, for the tables of all instruments.

/// Kind of an instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// A number that only grows.
    Counter,
    /// A number that is set.
    Gauge,
    /// A distribution.
    Histogram,
}

/// An instrument, as it goes through the `metrics` facade.
///
/// The tables give an exporter the units and the buckets: [`INSTRUMENTS`](crate::metrics::INSTRUMENTS) for the inbox,
/// and `chip::INSTRUMENTS`, `emitter::INSTRUMENTS`, `runtime::INSTRUMENTS` and `source::INSTRUMENTS`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Instrument {
    /// Name of the instrument.
    pub name: &'static str,
    /// Kind of the instrument.
    pub kind: InstrumentKind,
    /// Unit, as OpenTelemetry writes it.
    pub unit: &'static str,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// Upper ends of the buckets of a histogram, in the unit. Empty for the exporter's default.
    pub buckets: &'static [f64],
    /// Meaning of the value.
    pub help: &'static str,
}

/// Tells a recorder the unit and the meaning of an instrument.
#[cfg(any(feature = "emitter", feature = "prometheus"))]
pub(crate) fn describe(recorder: &dyn metrics::Recorder, instrument: &Instrument) {
    let unit = match instrument.unit {
        "s" => metrics::Unit::Seconds,
        "ms" => metrics::Unit::Milliseconds,
        "By" => metrics::Unit::Bytes,
        _ => metrics::Unit::Count,
    };
    let (name, help) = (instrument.name.into(), instrument.help.into());
    match instrument.kind {
        InstrumentKind::Counter => recorder.describe_counter(name, Some(unit), help),
        InstrumentKind::Gauge => recorder.describe_gauge(name, Some(unit), help),
        InstrumentKind::Histogram => recorder.describe_histogram(name, Some(unit), help),
    }
}

/// Declares a constant for the name of each instrument, and the table of them.
#[cfg(any(feature = "emitter", feature = "runtime"))]
macro_rules! instruments {
    (
        $(#[$table_doc:meta])*
        $(
            $constant:ident = $name:literal, $kind:ident, $unit:literal, [$($label:expr),*], $buckets:expr,
            $help:literal;
        )+
    ) => {
        $(pub(crate) const $constant: &str = $name;)+

        $(#[$table_doc])*
        pub const INSTRUMENTS: &[crate::instrument::Instrument] = &[$(crate::instrument::Instrument {
            name: $name,
            kind: crate::instrument::InstrumentKind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            buckets: $buckets,
            help: $help,
        }),+];
    };
}
#[cfg(any(feature = "emitter", feature = "runtime"))]
pub(crate) use instruments;

/// Returns a count as a metric takes it, exact up to 2^53.
#[cfg(any(feature = "emitter", feature = "runtime"))]
#[allow(clippy::cast_precision_loss)]
pub(crate) fn whole(count: usize) -> f64 {
    count as f64
}
