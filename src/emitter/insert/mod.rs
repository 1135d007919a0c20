//! The way of an emit: checked, inserted with others, handed over.

pub(crate) mod queue;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::chip::client::breaker::BreakerState;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::delivery::lifecycle::STARTED;
use crate::emitter::emitter::Inner;
use crate::emitter::error::EmitterError;
use crate::emitter::insert::queue::{NotQueued, Request, insert_all};
use crate::emitter::metrics::{Pair, Phase};
use crate::emitter::outcomes::{Entry, guarded};
use crate::error::Error;
use crate::heartbeat::Beat;
use crate::outbox::row::{Stored, lay_together, prepare};
use crate::room::MAX_QUEUE_BYTES;
use crate::store::{Backend, Fault, OutboxKey};

impl<B: Backend> Inner<B> {
    pub(crate) async fn emit(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        let started = Instant::now();
        let under_way = self.emits.token();
        let pair = Pair::of(event.source(), event.event_type());
        let emitted = self.emit_checked(event).await;
        drop(under_way);
        self.settling.metrics.emitted(&pair, emitted.is_err(), started.elapsed());
        if emitted.is_ok() {
            self.settling.counters.emitted();
        }
        emitted
    }

    async fn emit_checked(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        if self.state.load(Ordering::SeqCst) != STARTED {
            return Err(EmitterError::NotStarted);
        }
        let stored = prepare(event, self.config().retransmit_after, self.config().idempotency_key);
        let (bytes, limit) = (stored.payload.len(), self.config().batch.effective_request_limit());
        if bytes > limit {
            return Err(EmitterError::TooLarge { bytes, limit });
        }
        let started = Instant::now();
        let inserted = self.store(stored).await.map_err(EmitterError::Persist);
        let took = started.elapsed();
        self.settling.metrics.inserted(inserted.is_err(), took);
        let hook = self.config().hooks.on_emit_insert.as_deref();
        guarded("on_emit_insert", || hook.map(|hook| hook(took, inserted.as_ref().err())));
        inserted
    }

    async fn store(&self, stored: Stored) -> Result<Uuid, Arc<Error>> {
        let Some(inserts) = &self.inserts else {
            let (mut inserted, left) = self.insert(vec![stored]).await;
            self.release(left).await;
            return inserted.pop().unwrap_or_else(|| Err(Arc::new(closed())));
        };
        let (reply, inserted) = oneshot::channel();
        let insert_by = from_now(self.config().database_timeout);
        match inserts.push(Request { stored, reply, insert_by, place: None }).await {
            Ok(()) => inserted.await.unwrap_or_else(|_| Err(Arc::new(interrupted()))),
            Err(NotQueued::Closed) => Err(Arc::new(closed())),
            Err(NotQueued::Late) => Err(Arc::new(late())),
        }
    }

    /// Inserts rows and hands over those that were inserted; answers also which of those found no place.
    async fn insert(&self, mut stored: Vec<Stored>) -> (Vec<Result<Uuid, Arc<Error>>>, Vec<OutboxKey>) {
        let config = self.config();
        lay_together(&mut stored);
        let started = Instant::now();
        let turns = &self.settling.turns;
        let done = insert_all(&self.pool, turns, &mut stored, config.retransmit_after, config.database_timeout).await;
        let operation = if stored.len() == 1 { "insert" } else { "insert_batch" };
        self.settling.metrics.store_operation(operation, done.iter().any(Result::is_err), started.elapsed());
        let mut left = Vec::new();
        let deliver = |(stored, done): (Stored, Result<(), _>)| {
            done.map(|()| {
                let key = stored.key;
                if self.deliver(stored) == Handover::LeftWaiting {
                    left.push(key);
                }
                key.id
            })
        };
        let inserted = stored.into_iter().zip(done).map(deliver).collect();
        (inserted, left)
    }

    /// Inserts what is queued until the queue is closed and empty.
    pub(crate) async fn run_inserts(self: Arc<Self>, beat: Beat) {
        let config = self.config();
        let Some(inserts) = &self.inserts else { return };
        let _worker = inserts.worker();
        while let Some(requests) = inserts.next(config.insert_batch_size.max(1), config.insert_flush_interval).await {
            let _busy = beat.busy();
            let now = Instant::now();
            let (requests, too_late): (Vec<_>, Vec<_>) =
                requests.into_iter().partition(|request| now < request.insert_by);
            for request in too_late {
                let _ = request.reply.send(Err(Arc::new(late())));
            }
            let (stored, replies): (Vec<_>, Vec<_>) =
                requests.into_iter().map(|request| (request.stored, (request.reply, request.place))).unzip();
            if stored.is_empty() {
                continue;
            }
            self.wait_for_the_sender(&stored).await;
            let (inserted, left) = self.insert(stored).await;
            for ((reply, _place), inserted) in replies.into_iter().zip(inserted) {
                // A caller that gave up does not wait for the answer; its event is stored all the same.
                let _ = reply.send(inserted);
            }
            self.release(left).await;
        }
    }

    /// Lets the sender keep up: what finds no place there costs a claim later. Never longer than [`HANDOVER_WAIT`], and not at all when nothing
    /// is sent anyhow, because what is emitted must be accepted.
    async fn wait_for_the_sender(&self, rows: &[Stored]) {
        let until = from_now(HANDOVER_WAIT);
        let enough = rows.len().min(self.config().batch.message_buffer.get());
        let bytes = rows.iter().map(|stored| stored.payload.len()).sum::<usize>().min(MAX_QUEUE_BYTES);
        while (self.client.free() < enough || self.client.free_bytes() < bytes)
            && self.client.breaker_state() == BreakerState::Closed
            && !self.stopping.is_cancelled()
            && Instant::now() < until
        {
            tokio::time::sleep(HANDOVER_POLL).await;
        }
    }

    /// Sends a row from memory whose insert was the claim.
    pub(crate) fn deliver(&self, stored: Stored) -> Handover {
        let Stored { key, event, attempts, claimed_until, .. } = stored;
        let pair = Pair::of(event.source(), event.event_type());
        let entered = match self.settling.enter((key, attempts), claimed_until, Phase::Batch, &pair) {
            Entry::Entered(delivery) => self.send(event, delivery, Phase::Batch).is_ok(),
            Entry::InFlight | Entry::Full => {
                self.settling.metrics.buffer_full(Phase::Batch, &pair);
                false
            }
        };
        if !entered {
            self.settling.counters.left_waiting();
            tracing::debug!(id = %key.id, "the queue to the sender is full: the message waits in the outbox");
            return Handover::LeftWaiting;
        }
        Handover::Queued
    }
}

/// Result of handing over a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handover {
    /// It is sent from memory.
    Queued,
    /// A host sends the row: when there is room again, if the queue is full; when the claim of its insert is over, if the emitter is not running.
    LeftWaiting,
}

/// Longest wait of an insert for places in the queue of the client.
const HANDOVER_WAIT: Duration = Duration::from_millis(50);

/// Time between two checks for places.
const HANDOVER_POLL: Duration = Duration::from_millis(1);

const ATTEMPT: &str = "store a message in the outbox";

/// The error of an emit that was accepted and then met the stop, or the end of the runtime that the emitter was started
/// on.
pub(crate) fn closed() -> Error {
    Error::setup(ATTEMPT, "the emitter was stopped, or the runtime that it was started on has ended: emitter closed")
}

/// The error of an emit whose insert was under way when the runtime of the emitter ended.
fn interrupted() -> Error {
    let source = "the runtime that the emitter was started on has ended in the middle of that".into();
    Error::Unknown { attempt: ATTEMPT.to_owned(), source }
}

/// The error of an emit whose insert did not begin in time; it is not stored.
fn late() -> Error {
    let text = "it waited longer than database_timeout for its insert to begin";
    Fault(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))).during(ATTEMPT)
}
