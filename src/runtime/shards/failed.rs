//! Shards whose rounds fail as a whole. Their status saves work and tells operators; correctness never rests on it.
//!
//! The workers note failed and committed work here. Each check of the leases writes what was noted: a shard with
//! `fail_after` failures in a row is *failed*, and no process works on it until its pause ends. Then one more failure
//! makes it failed again, with a longer pause. A commit heals it. While the database is away, no check succeeds, so an
//! outage of the database fails no shard.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::runtime::config::RuntimeConfig;
use crate::shard::ShardSet;
use crate::store::ShardOrder;
use crate::text::Chain;

/// Largest number of characters of the error of a failed shard. [`TRUNCATED`] follows a longer one.
const MAX_ERROR_CHARS: usize = 2_048;

/// End of an error that was cut.
const TRUNCATED: &str = " ...[truncated]";

/// What the workers noted of each shard since the last check.
#[derive(Debug, Default)]
pub(crate) struct FailedShards {
    /// Whether anything is noted; read before the lock is taken.
    any: AtomicBool,
    noted: Mutex<BTreeMap<u8, Noted>>,
}

#[derive(Debug, Default)]
struct Noted {
    /// Failures in a row.
    failures: u32,
    error: String,
    /// Whether the last work on the shard was committed.
    works: bool,
}

/// What a check has to write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Shards that fail, each with the number of failures before and the error.
    pub(super) failed: Vec<(u8, i32, String)>,
    /// Shards that work again.
    pub(super) healed: ShardSet,
}

impl FailedShards {
    /// Notes that a round or a turn on these shards failed without a fault of its recipients.
    pub(crate) fn failed(&self, shards: ShardSet, error: &dyn Error) {
        let error = bounded(&Chain(error).to_string());
        let mut noted = self.noted();
        self.any.store(true, Ordering::Release);
        for shard in shards.iter() {
            let noted = noted.entry(shard).or_default();
            noted.failures = noted.failures.saturating_add(1);
            noted.error.clone_from(&error);
            noted.works = false;
        }
    }

    /// Notes a commit on a shard.
    pub(crate) fn works(&self, shard: u8) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        if let Some(noted) = self.noted().get_mut(&shard) {
            (noted.failures, noted.works) = (0, true);
        }
    }

    /// Forgets what was noted: the database was away.
    pub(super) fn forget(&self) {
        let mut noted = self.noted();
        noted.clear();
        self.any.store(false, Ordering::Release);
    }

    /// Returns what is to be written of the shards that this process holds. The orders have the earlier failures.
    pub(super) fn verdicts(&self, orders: &[ShardOrder], held: ShardSet, config: &RuntimeConfig) -> Verdicts {
        let is_tried_again = |order: &&ShardOrder| order.attempts > 0 && !leaves_alone(order, config);
        let again: BTreeMap<u8, i32> =
            orders.iter().filter(is_tried_again).map(|order| (shard_of(order), order.attempts)).collect();
        let mut verdicts = Verdicts::default();
        if !self.any.load(Ordering::Acquire) && again.is_empty() {
            return verdicts;
        }
        let mut all = self.noted();
        for shard in held.iter() {
            let attempts = again.get(&shard).copied().unwrap_or(0);
            // A commit on a shard that is tried again is worth a note, so the shard is in the list.
            let noted = if attempts > 0 { Some(all.entry(shard).or_default()) } else { all.get_mut(&shard) };
            let Some(noted) = noted else { continue };
            let enough = if attempts > 0 { 1 } else { config.fail_after.get() };
            if noted.failures >= enough {
                noted.failures = 0;
                verdicts.failed.push((shard, attempts, noted.error.clone()));
            } else if noted.works && attempts > 0 {
                verdicts.healed.insert(shard);
            }
        }
        // A commit may come before the check that reads this failure, and must heal the shard all the same.
        let with_failures = orders.iter().filter(|order| order.attempts > 0).map(shard_of);
        let failing: ShardSet = with_failures.chain(verdicts.failed.iter().map(|(shard, ..)| *shard)).collect();
        all.retain(|shard, noted| held.contains(*shard) && (noted.failures > 0 || failing.contains(*shard)));
        self.any.store(!all.is_empty(), Ordering::Release);
        verdicts
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<u8, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether no process works on a shard now. A wait of more than two of the longest pauses comes from a clock of
/// the database that has gone back since.
pub(super) fn leaves_alone(order: &ShardOrder, config: &RuntimeConfig) -> bool {
    order.attempts > 0 && order.wait_us.is_none_or(|wait| config.fail_backoff.leaves_alone(wait))
}

pub(super) fn shard_of(order: &ShardOrder) -> u8 {
    u8::try_from(order.shard).unwrap_or_default()
}

/// Cuts an error for its column, and replaces NUL, which Postgres cannot store.
fn bounded(error: &str) -> String {
    let error = error.replace('\0', "\u{fffd}");
    match error.char_indices().nth(MAX_ERROR_CHARS) {
        Some((end, _)) => format!("{}{TRUNCATED}", error.get(..end).unwrap_or_default()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> RuntimeConfig {
        let mut config = RuntimeConfig { fail_after: 3.try_into().unwrap(), ..RuntimeConfig::default() };
        (config.fail_backoff.base, config.fail_backoff.cap) = (Duration::from_secs(1), Duration::from_secs(10));
        config
    }

    fn order(attempts: i32, wait_us: Option<i64>) -> ShardOrder {
        ShardOrder { shard: 7, is_disabled: false, zone: None, attempts, wait_us }
    }

    fn seven() -> ShardSet {
        std::iter::once(7).collect()
    }

    fn fail(shards: &FailedShards, times: u32) {
        (0..times).for_each(|_| shards.failed(seven(), &std::fmt::Error));
    }

    #[test]
    fn a_commit_right_after_the_failure_heals_the_shard() {
        let (shards, config) = (FailedShards::default(), config());
        let verdicts = |orders: &[ShardOrder]| shards.verdicts(orders, ShardSet::ALL, &config);
        fail(&shards, 3);
        assert_eq!(verdicts(&[order(0, None)]).failed.len(), 1);
        shards.works(7);
        assert_eq!(verdicts(&[order(1, Some(500_000))]), Verdicts::default(), "its pause lasts");
        assert_eq!(verdicts(&[order(1, Some(0))]).healed, seven());
        assert_eq!(verdicts(&[order(0, None)]), Verdicts::default());
    }

    #[test]
    fn a_shard_fails_after_failures_in_a_row() {
        let (shards, config) = (FailedShards::default(), config());
        let verdicts = |orders: &[ShardOrder]| shards.verdicts(orders, ShardSet::ALL, &config);
        fail(&shards, 2);
        assert_eq!(verdicts(&[]), Verdicts::default());
        shards.works(7);
        fail(&shards, 2);
        assert_eq!(verdicts(&[]), Verdicts::default(), "a commit came between");
        fail(&shards, 1);
        let failed = verdicts(&[]).failed;
        assert!(matches!(&failed[..], [(7, 0, error)] if !error.is_empty()), "{failed:?}");
        assert_eq!(verdicts(&[]), Verdicts::default(), "it is told once");
        fail(&shards, 5);
        shards.forget();
        assert_eq!(verdicts(&[]), Verdicts::default(), "the database was away");
    }

    #[test]
    fn a_shard_that_is_tried_again_fails_at_once_or_is_healed() {
        let (shards, config) = (FailedShards::default(), config());
        let tried = [order(2, Some(-1))];
        assert_eq!(shards.verdicts(&tried, seven(), &config), Verdicts::default());
        fail(&shards, 1);
        assert!(matches!(&shards.verdicts(&tried, seven(), &config).failed[..], [(7, 2, _)]));
        shards.works(7);
        let healed = shards.verdicts(&tried, seven(), &config);
        assert_eq!(healed, Verdicts { failed: Vec::new(), healed: seven() });
        assert_eq!(shards.verdicts(&tried, ShardSet::default(), &config), Verdicts::default(), "another's shard");
    }

    #[test]
    fn a_failed_shard_is_left_alone_until_its_pause_ends() {
        let config = config();
        for (attempts, wait, alone) in [
            (0, None, false),
            (1, None, true),
            (1, Some(5_000_000), true),
            (1, Some(-1), false),
            (1, Some(3_600_000_000), false),
        ] {
            assert_eq!(leaves_alone(&order(attempts, wait), &config), alone, "{attempts}, {wait:?}");
        }
    }

    #[test]
    fn a_huge_error_is_truncated() {
        let cut = bounded(&"é".repeat(5_000));
        assert_eq!(cut, format!("{}{TRUNCATED}", "é".repeat(2_048)));
        assert_eq!(bounded(&"x".repeat(2_048)).len(), 2_048);
        assert_eq!(bounded("a\0b"), "a\u{fffd}b");
    }
}
