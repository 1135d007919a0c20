//! The last hour, in memory: the age of the oldest event of each kind.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::admin::Overview;
use crate::dashboard::html::text::age;

/// Interval between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Number of samples that are kept: one hour.
pub const SAMPLES: usize = 360;

/// Largest number of kinds in a sample: those whose events wait longest.
const MAX_SAMPLED_KINDS: usize = 100;

/// The samples of the last hour, oldest first. They are lost when the dashboard ends.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Age in seconds of the oldest event of each kind that has events.
    samples: VecDeque<BTreeMap<String, f64>>,
}

impl History {
    /// Keeps the ages of an overview, and drops the oldest sample when there are enough.
    pub(crate) fn note(&mut self, overview: &Overview) {
        let ages =
            overview.kinds.iter().filter_map(|kind| Some((kind.kind.clone(), age(kind.oldest_at?).as_secs_f64())));
        self.push(ages.collect());
    }

    fn push(&mut self, mut ages: Vec<(String, f64)>) {
        ages.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        ages.truncate(MAX_SAMPLED_KINDS);
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(ages.into_iter().collect());
    }

    /// Returns the ages of a kind, oldest sample first. A sample without the kind counts as 0.
    pub(crate) fn ages(&self, kind: &str) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.get(kind).copied().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hour_of_the_oldest_kinds_is_kept() {
        let mut history = History::default();
        assert!(history.ages("order").is_empty());
        for sample in 0..SAMPLES + 5 {
            history.push(vec![("order".to_owned(), sample as f64)]);
        }
        history.push((0..MAX_SAMPLED_KINDS + 1).map(|kind| (format!("kind {kind}"), kind as f64)).collect());
        let ages = history.ages("order");
        assert_eq!((ages.len(), ages.first().copied(), ages.last().copied()), (SAMPLES, Some(6.0), Some(0.0)));
        let last = history.samples.back().unwrap();
        assert_eq!((last.len(), last.contains_key("kind 0")), (MAX_SAMPLED_KINDS, false));
    }
}
