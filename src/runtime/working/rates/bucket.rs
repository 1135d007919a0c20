//! A token bucket, of which this process has the part of its shards.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Rate;
use crate::shard::SHARDS;

/// The tokens of a rate: each turn takes one. A bucket is stored as the time at which it is full again.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    /// Time in which one token of this process comes.
    interval: Duration,
    /// Most tokens of this process.
    burst: u32,
    full_at: Instant,
}

impl Bucket {
    /// Makes a full bucket, for a process that has all shards.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Bucket { rate, interval: rate.interval(), burst: rate.burst.get(), full_at: now }
    }

    /// Lets this process have the part of this number of shards, and one token at least. Missing tokens stay missing.
    pub(super) fn share(&mut self, shards: usize) {
        let (shards, all) = (u32::try_from(shards).unwrap_or_default().clamp(1, SHARDS.into()), u32::from(SHARDS));
        let nanos = (self.rate.interval().as_nanos() * u128::from(all)).div_ceil(shards.into());
        self.interval = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.burst = part_of(self.rate.burst.get(), shards);
    }

    /// Returns the number of tokens.
    pub(super) fn tokens(&self, now: Instant) -> usize {
        let missing = self.full_at.saturating_duration_since(now).as_nanos();
        let present = (self.interval.as_nanos() * u128::from(self.burst)).saturating_sub(missing);
        usize::try_from(present / self.interval.as_nanos().max(1)).unwrap_or(usize::MAX)
    }

    /// Takes a token, which must be there.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// Gives a token back that was not used.
    pub(super) fn give_back(&mut self) {
        self.full_at = self.full_at.checked_sub(self.interval).unwrap_or(self.full_at);
    }

    /// Returns when a token is there: a time in the past when there is one already.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let others = self.interval * self.burst.saturating_sub(1);
        self.full_at.checked_sub(others).unwrap_or(now)
    }
}

/// Returns the part of a number that belongs to this number of shards, rounded down, and 1 at least.
pub(super) fn part_of(number: u32, shards: u32) -> u32 {
    let part = u64::from(number) * u64::from(shards) / u64::from(SHARDS);
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;

    fn rate(turns: u32, per_ms: u64, burst: u32) -> Rate {
        let turns = NonZeroU32::new(turns).unwrap();
        Rate::new(turns, Duration::from_millis(per_ms)).burst(NonZeroU32::new(burst).unwrap())
    }

    /// Takes all tokens. Returns how many there were.
    fn empty(bucket: &mut Bucket, now: Instant) -> usize {
        let tokens = bucket.tokens(now);
        (0..tokens).for_each(|_| bucket.take(now));
        assert_eq!(bucket.tokens(now), 0);
        tokens
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_followed_by_one_turn_at_a_time() {
        let mut bucket = Bucket::new(rate(10, 1_000, 3), Instant::now());
        assert_eq!(empty(&mut bucket, Instant::now()), 3);
        let next = bucket.next(Instant::now());
        assert_eq!(next, Instant::now() + Duration::from_millis(100));
        tokio::time::advance(Duration::from_millis(99)).await;
        assert_eq!(bucket.tokens(Instant::now()), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(empty(&mut bucket, Instant::now()), 1);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(empty(&mut bucket, Instant::now()), 3, "no more are kept");
        bucket.give_back();
        assert_eq!(bucket.tokens(Instant::now()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn processes_with_all_shards_between_them_have_the_rate_between_them() {
        let (now, rate) = (Instant::now(), rate(100, 1_000, 50));
        let per_minute = |shards: usize| {
            let mut bucket = Bucket::new(rate, now);
            bucket.share(shards);
            let burst = empty(&mut bucket, now);
            let later = (1..=6_000).map(|ms| now + Duration::from_millis(ms * 10));
            (burst, later.map(|at| empty(&mut bucket, at)).sum::<usize>())
        };
        assert_eq!(per_minute(256), (50, 6_000));
        let parts = [128, 100, 28].map(per_minute);
        let bursts: usize = parts.iter().map(|(burst, _)| burst).sum();
        let turns: usize = parts.iter().map(|(_, turns)| turns).sum();
        assert!((48..=50).contains(&bursts) && (5_990..=6_000).contains(&turns), "{parts:?}");
        assert_eq!(per_minute(0).0, 1, "a process that has no shard yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_part_gives_no_tokens_away() {
        let now = Instant::now();
        let mut bucket = Bucket::new(rate(100, 1_000, 100), now);
        empty(&mut bucket, now);
        for shards in [1, 256, 64, 255, 3, 256] {
            bucket.share(shards);
            assert_eq!(bucket.tokens(now), 0, "{shards}");
        }
    }

    /// What a test does to a bucket.
    #[derive(Debug, Clone)]
    enum Step {
        Wait(Duration),
        Take(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let wait = prop_oneof![0..3_000_u64, 0..10_000_000_000_u64].prop_map(|ns| Step::Wait(Duration::from_nanos(ns)));
        prop::collection::vec(prop_oneof![wait, (1..20_usize).prop_map(Step::Take)], 1..60)
    }

    /// In any time no more tokens are taken than the burst and those that come in that time. A bucket that is asked
    /// when its next token is there has none before that time, and one at it.
    #[test]
    fn no_time_has_more_turns_than_its_rate() {
        let cases = (1..2_000_u32, 1..5_000_u64, 1..40_u32, 1..=256_usize, steps());
        let now = Instant::now();
        let ran = TestRunner::default().run(&cases, |(turns, per_ms, burst, shards, steps)| {
            let mut bucket = Bucket::new(rate(turns, per_ms, burst), now);
            bucket.share(shards);
            let (interval, burst) = (bucket.interval, bucket.burst as usize);
            let (mut at, mut taken) = (now, Vec::new());
            for step in steps {
                match step {
                    Step::Wait(time) => at += time,
                    Step::Take(wanted) => {
                        for _ in 0..wanted.min(bucket.tokens(at)) {
                            bucket.take(at);
                            taken.push(at);
                        }
                    }
                }
                let next = bucket.next(at);
                prop_assert_eq!(bucket.tokens(at) > 0, next <= at);
                if next > at {
                    prop_assert!(bucket.tokens(next - Duration::from_nanos(1)) == 0 && bucket.tokens(next) == 1);
                }
            }
            for first in 0..taken.len() {
                for last in first..taken.len() {
                    let come = (taken[last] - taken[first]).as_nanos() / interval.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= burst as u128 + come);
                }
            }
            Ok(())
        });
        ran.unwrap();
    }
}
