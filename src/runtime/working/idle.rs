//! Idle time, reported once a second: each shard has a counter, and most wake-ups are about one recipient.

use std::time::Duration;

use tokio::time::Instant;

use crate::eventbox::{Phase, spent};
use crate::shard::ShardSet;

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Idle time that is not reported yet.
#[derive(Debug)]
pub(super) struct Idle {
    time: Duration,
    of: ShardSet,
    reported_at: Instant,
}

impl Idle {
    pub(super) fn new(now: Instant) -> Self {
        Idle { time: Duration::ZERO, of: ShardSet::default(), reported_at: now }
    }

    /// Adds idle time of these shards.
    pub(super) fn add(&mut self, time: Duration, owned: ShardSet, now: Instant) {
        if owned != self.of {
            self.report(now);
            self.of = owned;
        }
        self.time += time;
        if now.duration_since(self.reported_at) >= REPORT_INTERVAL {
            self.report(now);
        }
    }

    fn report(&mut self, now: Instant) {
        self.reported_at = now;
        let of_each = std::mem::take(&mut self.time);
        if !of_each.is_zero() {
            let all = of_each * u32::try_from(self.of.len()).unwrap_or(0);
            spent(Phase::Idle, all, self.of.iter().map(|shard| (shard, 1)));
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.report(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

    use super::*;

    /// Returns the time reported since the last call, by the names of shards.
    fn told(snapshotter: &Snapshotter) -> Vec<(String, u64)> {
        let told = snapshotter.snapshot().into_vec().into_iter().filter_map(|(key, _, _, value)| {
            let shard = key.key().labels().find(|label| label.key() == "shard")?.value().to_owned();
            let DebugValue::Counter(us) = value else { return None };
            (us > 0).then_some((shard, us))
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    }

    #[test]
    fn idle_time_is_reported_once_a_second_for_the_owned_shards() {
        let recorder = DebuggingRecorder::new();
        let (snapshotter, began) = (recorder.snapshotter(), Instant::now());
        let ms = Duration::from_millis;
        metrics::with_local_recorder(&recorder, || {
            let mut idle = Idle::new(began);
            let (both, one) = ([3, 7].into_iter().collect(), [7].into_iter().collect());
            idle.add(ms(200), both, began + ms(300));
            assert!(told(&snapshotter).is_empty(), "it is too early");
            idle.add(ms(300), both, began + ms(1_300));
            assert_eq!(told(&snapshotter), [("3".to_owned(), 500_000), ("7".to_owned(), 500_000)]);
            idle.add(ms(100), both, began + ms(1_400));
            idle.add(ms(40), one, began + ms(1_500));
            assert_eq!(
                told(&snapshotter),
                [("3".to_owned(), 100_000), ("7".to_owned(), 100_000)],
                "before they change"
            );
            drop(idle);
            assert_eq!(told(&snapshotter), [("7".to_owned(), 40_000)], "and the rest at the end");
        });
    }
}
