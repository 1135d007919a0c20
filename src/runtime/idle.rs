//! The time in which nothing was under way, told together: every shard has a counter, and most wake-ups are about one recipient.

use std::time::Duration;

use tokio::time::Instant;

use crate::eventbox::{Phase, spent};
use crate::shard::ShardSet;

/// How often it is told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// What has not been told yet.
#[derive(Debug)]
pub(super) struct Idle {
    time: Duration,
    of: ShardSet,
    told_at: Instant,
}

impl Idle {
    pub(super) fn new(now: Instant) -> Self {
        Idle { time: Duration::ZERO, of: ShardSet::default(), told_at: now }
    }

    /// Nothing was under way for so long, while these shards were worked on.
    pub(super) fn add(&mut self, time: Duration, owned: ShardSet, now: Instant) {
        if owned != self.of {
            self.tell(now);
            self.of = owned;
        }
        self.time += time;
        if now.duration_since(self.told_at) >= TOLD_EVERY {
            self.tell(now);
        }
    }

    fn tell(&mut self, now: Instant) {
        self.told_at = now;
        let of_each = std::mem::take(&mut self.time);
        if !of_each.is_zero() {
            let all = of_each * u32::try_from(self.of.len()).unwrap_or(0);
            spent(Phase::Idle, all, self.of.iter().map(|shard| (shard, 1)));
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.tell(Instant::now());
    }
}
