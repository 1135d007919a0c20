//! Releases rows whose messages found no place in the queue of the client.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Pool;
use tokio::sync::Notify;

use crate::chip::client::breaker::BreakerState;
use crate::emitter::delivery::handoff::Handoff;
use crate::emitter::delivery::signals::Signals;
use crate::heartbeat::Beat;
use crate::outbox::row::FIRST_CLAIM;
use crate::store::{Backend, OutboxKey, Reschedule, answered, hold};

/// Most rows that wait for their release. Further rows become due when their claims end.
const MAX_RELEASES: usize = 10_000;

/// Rows that wait for their release, and the loop that gives up their claims.
pub(crate) struct ReleaseQueue<B: Backend> {
    pool: Pool<B>,
    handoff: Arc<Handoff>,
    signals: Arc<Signals>,
    keys: Mutex<Vec<OutboxKey>>,
    waiting: Notify,
}

impl<B: Backend> ReleaseQueue<B> {
    pub(crate) fn new(pool: Pool<B>, handoff: Arc<Handoff>, signals: Arc<Signals>) -> Self {
        ReleaseQueue { pool, handoff, signals, keys: Mutex::default(), waiting: Notify::new() }
    }

    /// Queues a row to be released.
    pub(crate) fn push(&self, key: OutboxKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < MAX_RELEASES {
            keys.push(key);
        }
        drop(keys);
        self.waiting.notify_one();
    }

    fn take(&self) -> Vec<OutboxKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Releases rows until the emitter stops. Rows that come during a statement share the next one.
    pub(crate) async fn run(self: Arc<Self>, beat: Beat) {
        loop {
            tokio::select! {
                () = self.signals.stopping.cancelled() => return,
                () = self.waiting.notified() => {}
            }
            let _busy = beat.busy();
            self.release(self.take()).await;
        }
    }

    /// Gives up the first claims of rows, so that they are due at once. While the breaker is not closed nothing is
    /// sent, and the claims stay.
    pub(crate) async fn release(&self, mut keys: Vec<OutboxKey>) {
        if keys.is_empty() || self.handoff.client.breaker_state() != BreakerState::Closed {
            return;
        }
        keys.sort_unstable();
        let released: Vec<_> = keys.into_iter().map(|key| due_now(key, FIRST_CLAIM)).collect();
        let statement =
            answered(&self.pool, async { B::reschedule_outbox(&mut *hold(&self.pool).await?, &released).await });
        self.handoff.context.statement("reschedule", statement).await;
        self.signals.retransmit.notify_one();
    }
}

/// Makes a row due at once that found no place in the queue of the client.
pub(crate) fn due_now(key: OutboxKey, attempts: i32) -> Reschedule {
    let (code, error) = ("message buffer is full".to_owned(), String::new());
    Reschedule { key, attempts, delay_us: 0, code, error }
}
