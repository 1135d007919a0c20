//! Wakes up the workers of this process for new events. A wake-up only makes them faster, because the rows are the
//! truth.
//!
//! * A committed emit names its recipients. The workers look at them at once.
//! * An emit in a caller's transaction cannot know when that commits. It names the shard, which is scanned repeatedly.
//! * An emit in a transaction of the library names its recipients after the commit.
//! * Beyond [`MAX_NAMED`] recipients only their shards are named.

#![cfg_attr(not(feature = "runtime"), allow(dead_code, unused_imports, reason = "only the runtime listens"))]

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::sync::Notify;

use crate::recipient::Recipient;
use crate::shard::ShardSet;

/// Most recipients that are named until a listener takes them. Of further recipients the shards are named.
const MAX_NAMED: usize = 10_000;

static LISTENERS: RwLock<Vec<Weak<WakeUps>>> = RwLock::new(Vec::new());

/// Number of listeners, so that an emit without a listener costs one load.
static COUNT: AtomicUsize = AtomicUsize::new(0);

tokio::task_local! {
    /// Recipients of the events that were emitted in the current transaction of a turn or a round.
    static IN_TRANSACTION: RefCell<WakeUp>;
}

/// Wake-ups since the listener took the last ones.
#[derive(Debug, Default, Clone)]
pub(crate) struct WakeUp {
    /// Recipients that have committed events.
    pub(crate) recipients: HashSet<Recipient>,
    /// Shards with further recipients that have committed events.
    pub(crate) committed: ShardSet,
    /// Shards whose recipients may have events, now or soon.
    pub(crate) shards: ShardSet,
}

/// The wake-ups for one listener of this process.
#[derive(Debug, Default)]
pub(crate) struct WakeUps {
    pending: Mutex<WakeUp>,
    notify: Notify,
}

/// Adds a listener. It is removed when it is dropped.
pub(crate) fn listen() -> Arc<WakeUps> {
    let wake_ups = Arc::new(WakeUps::default());
    let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
    listeners.retain(|listener| listener.strong_count() > 0);
    listeners.push(Arc::downgrade(&wake_ups));
    COUNT.store(listeners.len(), Ordering::Release);
    wake_ups
}

/// Wakes up the listeners for recipients whose events are committed, or are in a transaction that is still open.
pub(crate) fn wake<'a>(recipients: &(impl Iterator<Item = &'a Recipient> + Clone), are_committed: bool) {
    if COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    if are_committed {
        return wake_all(|wake_up| recipients.clone().for_each(|to| wake_up.name(to)));
    }
    let in_transaction = IN_TRANSACTION.try_with(|wake_up| {
        let mut wake_up = wake_up.borrow_mut();
        recipients.clone().for_each(|to| wake_up.name(to));
    });
    if in_transaction.is_err() {
        wake_all(|wake_up| recipients.clone().for_each(|to| wake_up.shards.insert(to.shard())));
    }
}

/// The beginning of the kinds of streams: their recipients are `peer.<peer>/<stream>`.
pub(crate) const STREAM_KIND: &str = "peer.";

/// Returns whether the recipients of a kind are streams.
pub(crate) fn is_stream(kind: &str) -> bool {
    kind.starts_with(STREAM_KIND)
}

/// Wakes up the listeners for a shard that may have new events, now or soon.
pub(crate) fn wake_shard(shard: u8) {
    if COUNT.load(Ordering::Acquire) > 0 {
        wake_all(|wake_up| wake_up.shards.insert(shard));
    }
}

/// Runs a transaction of the library, and sends the wake-ups of its emits if it commits.
pub(crate) async fn in_transaction<T, E>(transaction: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return transaction.await;
    }
    let transaction = async {
        let done = transaction.await;
        (done, IN_TRANSACTION.with(RefCell::take))
    };
    let (done, emitted) = IN_TRANSACTION.scope(RefCell::default(), transaction).await;
    if done.is_ok() && !emitted.is_empty() {
        wake_all(|wake_up| wake_up.add(&emitted));
    }
    done
}

fn wake_all(add: impl Fn(&mut WakeUp)) {
    for listener in LISTENERS.read().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
        listener.update(&add);
    }
}

impl WakeUp {
    fn name(&mut self, to: &Recipient) {
        if self.recipients.contains(to) {
            return;
        }
        if self.recipients.len() < MAX_NAMED {
            self.recipients.insert(to.clone());
        } else {
            self.committed.insert(to.shard());
        }
    }

    fn add(&mut self, other: &WakeUp) {
        other.recipients.iter().for_each(|to| self.name(to));
        self.committed = self.committed.or(other.committed);
        self.shards = self.shards.or(other.shards);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.committed.is_empty() && self.shards.is_empty()
    }

    /// Returns the number of recipients and shards.
    pub(crate) fn len(&self) -> usize {
        self.recipients.len() + self.committed.len() + self.shards.len()
    }

    /// Returns the wake-ups of other shards, and of streams, because any process may have the connection of a stream.
    pub(crate) fn without(mut self, shards: ShardSet) -> Self {
        self.recipients.retain(|to| !shards.contains(to.shard()) || is_stream(to.kind()));
        WakeUp {
            recipients: self.recipients,
            committed: self.committed.without(shards),
            shards: self.shards.without(shards),
        }
    }
}

impl WakeUps {
    fn pending(&self) -> MutexGuard<'_, WakeUp> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, add: impl FnOnce(&mut WakeUp)) {
        let mut pending = self.pending();
        let was_pending = !pending.is_empty();
        add(&mut pending);
        // The first wake-up has woken the listener.
        if !was_pending && !pending.is_empty() {
            self.notify.notify_one();
        }
    }

    /// Wakes up this listener alone.
    pub(crate) fn wake(&self, wake_up: &WakeUp) {
        self.update(|pending| pending.add(wake_up));
    }

    /// Waits for a wake-up. Cancel safe.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Takes the wake-ups so far.
    pub(crate) fn take(&self) -> WakeUp {
        std::mem::take(&mut self.pending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_only_shards_are_named() {
        let mut wake_up = WakeUp::default();
        let to = |n: usize| Recipient::new("cell", n.to_string()).unwrap();
        for n in 0..MAX_NAMED {
            wake_up.name(&to(n));
        }
        assert!(wake_up.committed.is_empty());
        let late = to(MAX_NAMED);
        wake_up.name(&late);
        assert_eq!(wake_up.recipients.len(), MAX_NAMED);
        assert_eq!(wake_up.committed, [late.shard()].into_iter().collect());
        assert!(wake_up.shards.is_empty(), "a committed event needs one scan");
        let left = wake_up.without([late.shard()].into_iter().collect());
        assert!(left.committed.is_empty() && left.recipients.iter().all(|to| to.shard() != late.shard()));
    }
}
