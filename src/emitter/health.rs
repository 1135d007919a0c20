//! Health of the emitter.

use std::collections::BTreeMap;

/// Name under which the emitter reports its health.
pub const SERVICE_NAME: &str = "DurableEmitter";

/// Health of the emitter: one entry, [`SERVICE_NAME`], with its problems.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthReport {
    /// Problem of each service; `None` when it has none.
    pub entries: BTreeMap<&'static str, Option<String>>,
}

impl HealthReport {
    pub(crate) fn of(problems: &[String]) -> Self {
        let problem = if problems.is_empty() { None } else { Some(problems.join("; ")) };
        HealthReport { entries: BTreeMap::from([(SERVICE_NAME, problem)]) }
    }

    /// Returns whether no service has a problem.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.entries.values().all(Option::is_none)
    }
}
