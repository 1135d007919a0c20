//! The description of a measurement, and the units of its figures.

/// The unit of a figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unit {
    pub(crate) text: String,
    pub(crate) better: Better,
}

/// The direction in which a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    High,
    Low,
}

impl Unit {
    pub(crate) fn rate() -> Self {
        Unit { text: "events/s".to_owned(), better: Better::High }
    }

    pub(crate) fn low(text: impl Into<String>) -> Self {
        Unit { text: text.into(), better: Better::Low }
    }

    pub(crate) fn high(text: impl Into<String>) -> Self {
        Unit { text: text.into(), better: Better::High }
    }
}

/// The description of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) workload: &'static str,
    pub(crate) variant: Option<&'static str>,
    /// Units of a sample's figures, in the same order.
    pub(crate) units: Vec<Unit>,
}
