//! The gauges of single shards, for runtimes that ask for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::runtime::metrics;
use crate::shard::ShardSet;

/// Shards of this process by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct States {
    /// It works on them.
    pub(super) primary: ShardSet,
    /// It would take them.
    pub(super) standby: ShardSet,
    /// It holds them and leaves them alone.
    pub(super) failed: ShardSet,
}

impl States {
    fn or(self, other: States) -> States {
        States {
            primary: self.primary.or(other.primary),
            standby: self.standby.or(other.standby),
            failed: self.failed.or(other.failed),
        }
    }
}

/// What the gauges of single shards have told so far.
#[derive(Debug, Default)]
pub(crate) struct ShardGauges {
    /// States in which each shard ever was: a gauge of a state that has ended is set to 0.
    ever: Mutex<States>,
}

impl ShardGauges {
    /// Sets the gauges. The generations are those of the shards that this process holds.
    pub(super) fn set(&self, now: States, generations: &BTreeMap<u8, i64>) {
        let ever = {
            let mut ever = self.ever.lock().unwrap_or_else(PoisonError::into_inner);
            *ever = ever.or(now);
            *ever
        };
        for (state, ever, now) in [
            (metrics::PRIMARY, ever.primary, now.primary),
            (metrics::STANDBY, ever.standby, now.standby),
            (metrics::FAILED, ever.failed, now.failed),
        ] {
            ever.iter().for_each(|shard| metrics::shard_up(shard, state, now.contains(shard)));
        }
        for shard in ever.primary.or(ever.failed).iter() {
            metrics::shard_generation(shard, generations.get(&shard).copied().unwrap_or(0));
        }
    }
}
