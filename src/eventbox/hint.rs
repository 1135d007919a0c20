//! Telling the workers of this process that a shard may have new events. A hint only makes it faster: the rows are the truth.
//!
//! An emit does not know whether its executor is a pool or a transaction that commits later, nor who listens: it marks the shard for every
//! listener of the process, and the listener looks more than once.

#![cfg_attr(not(feature = "runtime"), allow(dead_code, unused_imports, reason = "nobody listens"))]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use tokio::sync::Notify;

use crate::shard::ShardSet;

static LISTENERS: RwLock<Vec<Weak<Hints>>> = RwLock::new(Vec::new());

/// How many listeners there are, so that an emit without any costs one load.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The shards that were marked since one listener looked.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    marked: [AtomicU64; 4],
    wake: Notify,
}

/// A new listener, for as long as it is kept.
pub(crate) fn listen() -> Arc<Hints> {
    let hints = Arc::new(Hints::default());
    let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
    listeners.retain(|listener| listener.strong_count() > 0);
    listeners.push(Arc::downgrade(&hints));
    COUNT.store(listeners.len(), Ordering::Release);
    hints
}

/// Says that a shard may have new events, now or soon.
pub(crate) fn mark(shard: u8) {
    if COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    for listener in LISTENERS.read().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
        listener.mark(shard);
    }
}

impl Hints {
    fn mark(&self, shard: u8) {
        let bit = 1 << (shard & 63);
        let was = self.marked.get(usize::from(shard >> 6)).map(|word| word.fetch_or(bit, Ordering::AcqRel));
        // Whoever set the bit has woken the listener.
        if was.is_some_and(|was| was & bit == 0) {
            self.wake.notify_one();
        }
    }

    /// Marks several shards for this listener alone.
    pub(crate) fn mark_all(&self, shards: ShardSet) {
        shards.iter().for_each(|shard| self.mark(shard));
    }

    /// Whether a shard is marked.
    pub(crate) fn are_any(&self) -> bool {
        self.marked.iter().any(|marked| marked.load(Ordering::Acquire) != 0)
    }

    /// Waits until a shard is marked. Cancel safe.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes the marks away.
    pub(crate) fn take(&self) -> ShardSet {
        ShardSet::from_words(std::array::from_fn(|word| {
            self.marked.get(word).map_or(0, |marked| marked.swap(0, Ordering::AcqRel))
        }))
    }
}
