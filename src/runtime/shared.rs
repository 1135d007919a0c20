//! State that the loop of the workers shares with its tasks and with the other loops.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;

use super::attended::Attended;
use super::config::RuntimeConfig;
use super::failing::complaints::Complaints;
use super::failing::outage::Outages;
use super::finding::old_transactions::SlowScan;
use super::shards::failed::FailedShards;
use super::stats::Counters;
use super::working::at_work::AtWork;
use super::working::rates::Rates;
use super::working::registry::{Handlers, Hooks};
#[cfg(feature = "emitter")]
use crate::emitter::DurableEmitter;
use crate::eventbox::{ErasedHooks, TurnOptions};
use crate::heartbeat::Beat;
use crate::recipient::Recipient;
use crate::shard::ShardSet;
use crate::store::Backend;

/// State that the loop shares with its tasks.
pub(crate) struct Shared<B: Backend> {
    pub(crate) pool: Pool<B>,
    /// Connections for scans and leases, which go on while turns and emits hold every connection of the pool.
    pub(crate) reserved: Pool<B>,
    pub(crate) config: RuntimeConfig,
    pub(crate) handlers: Handlers<B>,
    pub(crate) hooks: Hooks<B>,
    /// The only recipients of this runtime, whoever holds their shards; `None` for an ordinary runtime.
    pub(crate) attended: Option<Arc<Attended>>,
    pub(crate) options: TurnOptions,
    /// How long each kind keeps its journal; zero ends a journal.
    pub(crate) journals: BTreeMap<String, Duration>,
    pub(crate) counters: Counters,
    pub(crate) publishers: Publishers,
    pub(crate) outages: Arc<Outages>,
    /// Shards whose rounds fail as a whole.
    pub(crate) failed_shards: Arc<FailedShards>,
    /// Recipients of turns in flight.
    pub(crate) at_work: Arc<AtWork>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) complaints: Arc<Complaints>,
    /// The last slow scan.
    pub(crate) slow_scans: watch::Sender<SlowScan>,
    /// Beats while a scan is in flight.
    pub(crate) finding: Beat,
    #[cfg(feature = "emitter")]
    pub(crate) emitter: Option<DurableEmitter<B>>,
}

impl<B: Backend> Shared<B> {
    /// Returns whether this runtime works on a recipient. It owns the shards of `owned`.
    pub(crate) fn works_on(&self, to: &Recipient, owned: ShardSet) -> bool {
        match &self.attended {
            Some(attended) => attended.contains(to),
            None => owned.contains(to.shard()),
        }
    }

    /// Returns what wraps the transactions of a kind.
    pub(crate) fn hooks_of(&self, kind: &str) -> Option<&dyn ErasedHooks<B>> {
        Some(&**self.hooks.get(kind)?)
    }

    /// Returns whether turns and rounds of this kind write the journal.
    pub(crate) fn is_journaled(&self, kind: &str) -> bool {
        self.journals.get(kind).is_some_and(|keep| !keep.is_zero())
    }
}

/// Kinds that have published.
#[derive(Debug, Default)]
pub(crate) struct Publishers(RwLock<BTreeSet<String>>);

impl Publishers {
    #[cfg(feature = "emitter")]
    pub(crate) fn note(&self, kind: &str) {
        if !self.0.read().unwrap_or_else(PoisonError::into_inner).contains(kind) {
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned());
        }
    }

    pub(crate) fn all(&self) -> BTreeSet<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the options of the turns of single recipients.
pub(crate) fn turn_options(config: &RuntimeConfig) -> TurnOptions {
    let max_events: NonZeroU32 = config.max_events;
    TurnOptions::new(max_events)
        .max_bytes(config.max_event_bytes.get())
        .deadline(config.turn_deadline)
        .return_hooks()
        .poison(config.poison)
        .backing_off(config.backoff.base, config.backoff.cap)
        .shard_metrics(config.shard_metrics)
}
