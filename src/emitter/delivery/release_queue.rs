//! Rows that were delivered from memory and found no place there.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::chip::client::breaker::BreakerState;
use crate::emitter::delivery::retransmit::no_place;
use crate::emitter::emitter::Inner;
use crate::emitter::outcomes::run;
use crate::heartbeat::Beat;
use crate::outbox::row::FIRST_CLAIM;
use crate::store::{Backend, OutboxKey, answered, hold};

/// The most rows that wait to be released; more are due when their claims end.
const MAX_LEFTOVERS: usize = 10_000;

/// The rows that wait to be released.
#[derive(Default)]
pub(crate) struct Leftovers {
    keys: Mutex<Vec<OutboxKey>>,
    some: Notify,
}

impl Leftovers {
    pub(crate) fn note(&self, key: OutboxKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < MAX_LEFTOVERS {
            keys.push(key);
        }
        drop(keys);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<OutboxKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Releases rows until the emitter stops; those that come during one statement share the next.
pub(crate) async fn run_release<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    loop {
        tokio::select! {
            () = inner.stopping.cancelled() => return,
            () = inner.leftovers.some.notified() => {}
        }
        let _busy = beat.busy();
        inner.release(inner.leftovers.take()).await;
    }
}

impl<B: Backend> Inner<B> {
    /// Gives up the claims of rows that found no place: they are due as soon as there is one, and not when their claims end. Not when nothing
    /// is sent anyhow.
    pub(crate) async fn release(&self, mut left: Vec<OutboxKey>) {
        if left.is_empty() || self.client.breaker_state() != BreakerState::Closed {
            return;
        }
        left.sort_unstable();
        let released: Vec<_> = left.into_iter().map(|key| no_place(key, FIRST_CLAIM)).collect();
        let statement =
            answered(&self.pool, async { B::reschedule_outbox(&mut *hold(&self.pool).await?, &released).await });
        run(&self.settling, "reschedule", statement).await;
        self.nudge.notify_one();
    }
}
