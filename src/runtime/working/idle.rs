//! Idle time, reported once a second: each shard may have a gauge, and most wake-ups are about one recipient.

use std::time::Duration;

use tokio::time::Instant;

use crate::eventbox::{Phase, spent, spent_for};
use crate::shard::ShardSet;

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Idle time that is not reported yet.
#[derive(Debug)]
pub(super) struct Idle {
    time: Duration,
    of: ShardSet,
    reported_at: Instant,
    /// Whether it is reported for each shard, too.
    by_shard: bool,
}

impl Idle {
    pub(super) fn new(now: Instant, by_shard: bool) -> Self {
        Idle { time: Duration::ZERO, of: ShardSet::default(), reported_at: now, by_shard }
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
        let time = std::mem::take(&mut self.time);
        if time.is_zero() {
            return;
        }
        spent(Phase::Idle, time, None::<std::iter::Empty<_>>);
        if self.by_shard {
            // Idle for each of them, all the time.
            self.of.iter().for_each(|shard| spent_for(Phase::Idle, time.as_secs_f64(), shard));
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

    /// Returns the milliseconds that the gauges of the shards have, by the names of the shards, and those of the
    /// process since the last call. A snapshot sets the gauges to 0.
    fn told(snapshotter: &Snapshotter) -> (Vec<(String, u32)>, u32) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are few")]
        let ms = |seconds: f64| (seconds * 1e3).round() as u32;
        let (mut shards, mut process) = (Vec::new(), 0);
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let shard = key.key().labels().find(|label| label.key() == "shard");
            match (shard, value) {
                (Some(shard), DebugValue::Gauge(seconds)) if seconds.into_inner() > 0.0 => {
                    shards.push((shard.value().to_owned(), ms(seconds.into_inner())));
                }
                (None, DebugValue::Histogram(times)) => process = ms(times.iter().map(|time| time.into_inner()).sum()),
                _ => {}
            }
        }
        shards.sort();
        (shards, process)
    }

    fn of(shards: &[(&str, u32)]) -> Vec<(String, u32)> {
        shards.iter().map(|(shard, ms)| ((*shard).to_owned(), *ms)).collect()
    }

    #[test]
    fn idle_time_is_reported_once_a_second_for_the_owned_shards() {
        let recorder = DebuggingRecorder::new();
        let (snapshotter, began) = (recorder.snapshotter(), Instant::now());
        let ms = Duration::from_millis;
        metrics::with_local_recorder(&recorder, || {
            let mut idle = Idle::new(began, true);
            let (both, one) = ([3, 7].into_iter().collect(), [7].into_iter().collect());
            idle.add(ms(200), both, began + ms(300));
            assert_eq!(told(&snapshotter), (of(&[]), 0), "it is too early");
            idle.add(ms(300), both, began + ms(1_300));
            assert_eq!(told(&snapshotter), (of(&[("3", 500), ("7", 500)]), 500));
            idle.add(ms(100), both, began + ms(1_400));
            idle.add(ms(40), one, began + ms(1_500));
            assert_eq!(told(&snapshotter), (of(&[("3", 100), ("7", 100)]), 100), "before they change");
            drop(idle);
            assert_eq!(told(&snapshotter), (of(&[("7", 40)]), 40), "and the rest at the end");

            let mut idle = Idle::new(began, false);
            idle.add(ms(300), both, began + ms(1_300));
            assert_eq!(told(&snapshotter), (of(&[]), 300), "no series for a shard unless asked for");
        });
    }
}
