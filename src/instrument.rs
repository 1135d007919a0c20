//! The description of an instrument, for the tables of all instruments.

/// Kind of an instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// It only grows.
    Counter,
    /// It is set.
    Gauge,
    /// It is a distribution.
    Histogram,
}

/// An instrument, as it goes through the `metrics` facade.
///
/// The tables are [`INSTRUMENTS`](crate::metrics::INSTRUMENTS) for the inbox and, with the feature `emitter`, `emitter::INSTRUMENTS` for the outbox: for
/// telling an exporter the units and the buckets, and for drawing a dashboard.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Instrument {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: InstrumentKind,
    /// Its unit, as OpenTelemetry writes it.
    pub unit: &'static str,
    /// The names of the labels it can have.
    pub labels: &'static [&'static str],
    /// Where the buckets of a histogram should end, in the unit; none: the exporter's default.
    pub buckets: &'static [f64],
    /// Meaning of the value.
    pub help: &'static str,
}

/// Declares a constant for the name of each instrument, and the table of them.
#[cfg(feature = "emitter")]
macro_rules! instruments {
    (
        $(#[$table_doc:meta])*
        $($constant:ident = $name:literal, $kind:ident, $unit:literal, [$($label:expr),*], $buckets:expr, $help:literal;)+
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
#[cfg(feature = "emitter")]
pub(crate) use instruments;

/// A count as a metric takes it; exact up to 2^53.
#[cfg(feature = "emitter")]
#[allow(clippy::cast_precision_loss)]
pub(crate) fn whole(count: usize) -> f64 {
    count as f64
}
