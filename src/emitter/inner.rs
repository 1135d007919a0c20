//! What the handles and the loops of an emitter share: store, send, start and stop.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::batch::BatchClient;
use super::coalesce::{InsertQueue, Request, insert_all};
use super::config::Config;
use super::emitter::{Handover, StopReport};
use super::error::EmitterError;
use super::fallback::Fallback;
use super::health::Heartbeats;
use super::metrics::{EmitterMetrics, Phase, describe};
use super::outbox::{Stored, prepare};
use super::outcome::SendError;
use super::retransmit;
use super::settle::{Delivery, Entry, Settling, guarded, run_worker};
use super::transport::Transport;
use super::upkeep::{run_expiry, run_observer, run_purge};
use crate::cloudevent::CloudEvent;
use crate::error::Error;
use crate::store::Backend;

/// Asynchronous emits that are stored at the same time.
const ASYNC_CONCURRENCY: usize = 64;

/// The part of a stop's time that is kept for settling what was sent.
const SETTLE_SHARE: u32 = 5;

/// What the loops and the handles share.
pub(super) struct Inner<B: Backend> {
    pub(super) pool: Pool<B>,
    pub(super) client: BatchClient,
    pub(super) settling: Arc<Settling>,
    pub(super) inserts: Option<InsertQueue>,
    pub(super) stopping: CancellationToken,
    /// Wakes the retransmission before its tick.
    pub(super) nudge: Notify,
    state: AtomicU8,
    /// Emits that are under way.
    emits: TaskTracker,
    loops: TaskTracker,
    settlers: TaskTracker,
    finish: CancellationToken,
    hearts: Heartbeats,
    oldest_ms: AtomicU64,
    fallback: Option<Arc<Fallback>>,
    asynchronous: Mutex<Option<mpsc::Sender<CloudEvent>>>,
}

const NEW: u8 = 0;
const STARTED: u8 = 1;
const STOPPED: u8 = 2;

impl<B: Backend> Inner<B> {
    pub(super) fn new(pool: Pool<B>, transport: Arc<dyn Transport>, config: Config) -> Result<Self, EmitterError> {
        config.check()?;
        let client = BatchClient::new(transport, config.batch.clone())?;
        let metrics = EmitterMetrics::new(config.batch.client_name.as_deref());
        let inserts = (config.insert_batch_size > 0).then(|| InsertQueue::new(config.insert_batch_size));
        let fallback = config.fallback;
        let settling = Settling::new(config, metrics);
        let fallback = fallback.then(|| Fallback::new(Arc::clone(client.sender()), Arc::clone(&settling)));
        Ok(Inner {
            pool,
            client,
            settling,
            inserts,
            stopping: CancellationToken::new(),
            nudge: Notify::new(),
            state: AtomicU8::new(NEW),
            emits: TaskTracker::new(),
            loops: TaskTracker::new(),
            settlers: TaskTracker::new(),
            finish: CancellationToken::new(),
            hearts: Heartbeats::default(),
            oldest_ms: AtomicU64::new(0),
            fallback,
            asynchronous: Mutex::new(None),
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.load(Ordering::SeqCst) == STARTED
    }

    pub(super) fn emit_async(&self, event: CloudEvent) {
        let queue = self.asynchronous.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(event).is_err()) {
            self.settling.counters.async_dropped();
            self.settling.metrics.async_dropped();
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.settling.config
    }

    pub(super) fn note_oldest(&self, age: Duration) {
        self.oldest_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Queues a message whose row is claimed; too late for its request to end within the claim, it is not sent.
    pub(super) fn send(
        &self,
        event: CloudEvent,
        delivery: Delivery,
        claimed_until: Instant,
        phase: Phase,
    ) -> Result<(), SendError> {
        let send_before = claimed_until.checked_sub(self.config().batch.publish_timeout).unwrap_or(claimed_until);
        let (settling, fallback) = (Arc::clone(&self.settling), self.fallback.clone());
        let callback = Box::new(move |sent| match fallback {
            Some(fallback) => fallback.settle(delivery, sent, send_before),
            None => settling.settle(delivery, &sent),
        });
        let queued = self.client.queue_until(event, Some(send_before), Some(callback));
        if let Err(SendError::BufferFull) = queued {
            self.settling.metrics.buffer_full(phase);
        }
        queued
    }

    pub(super) fn deliver(&self, stored: Stored) -> Handover {
        let Stored { key, event, attempts, claimed_until } = stored;
        let entered = match self.settling.enter(key, attempts, Phase::Batch) {
            Entry::Entered(delivery) => self.send(event, delivery, claimed_until, Phase::Batch).is_ok(),
            Entry::InFlight | Entry::Full => {
                self.settling.metrics.buffer_full(Phase::Batch);
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

    async fn store(&self, stored: Stored) -> Result<Uuid, Arc<Error>> {
        let Some(inserts) = &self.inserts else {
            return self.insert(vec![stored]).await.pop().unwrap_or_else(|| Err(Arc::new(lost())));
        };
        let (reply, inserted) = oneshot::channel();
        if !inserts.push(Request { stored, reply }).await {
            return Err(Arc::new(lost()));
        }
        inserted.await.unwrap_or_else(|_| Err(Arc::new(lost())))
    }

    /// Inserts rows and hands over those that were inserted.
    async fn insert(&self, mut stored: Vec<Stored>) -> Vec<Result<Uuid, Arc<Error>>> {
        let config = self.config();
        let started = Instant::now();
        let done = insert_all(&self.pool, &mut stored, config.retransmit_after, config.database_timeout).await;
        let operation = if stored.len() == 1 { "insert" } else { "insert_batch" };
        self.settling.metrics.store_operation(operation, done.iter().any(Result::is_err), started.elapsed());
        let deliver = |(stored, done): (Stored, Result<(), _>)| {
            done.map(|()| {
                let id = stored.key.id;
                self.deliver(stored);
                id
            })
        };
        stored.into_iter().zip(done).map(deliver).collect()
    }

    async fn run_inserts(self: Arc<Self>) {
        let config = self.config();
        while let Some(inserts) = &self.inserts
            && let Some(requests) = inserts.next(config.insert_batch_size.max(1), config.insert_flush_interval).await
        {
            let (stored, replies): (Vec<_>, Vec<_>) =
                requests.into_iter().map(|request| (request.stored, request.reply)).unzip();
            for (reply, inserted) in replies.into_iter().zip(self.insert(stored).await) {
                // A caller that gave up does not wait for the answer; its event is stored all the same.
                let _ = reply.send(inserted);
            }
        }
    }

    pub(super) async fn emit(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        let started = Instant::now();
        let under_way = self.emits.token();
        let (source, event_type) = (event.source().to_owned(), event.event_type().to_owned());
        let emitted = self.emit_checked(event).await;
        drop(under_way);
        self.settling.metrics.emitted(&source, &event_type, emitted.is_err(), started.elapsed());
        if emitted.is_ok() {
            self.settling.counters.emitted();
        }
        emitted
    }

    async fn emit_checked(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        if !self.is_running() {
            return Err(EmitterError::NotStarted);
        }
        let (bytes, limit) = (event.encoded_len(), self.config().batch.effective_request_limit());
        if bytes > limit {
            return Err(EmitterError::TooLarge { bytes, limit });
        }
        let stored = prepare(event, self.config().retransmit_after, self.config().idempotency_key);
        let started = Instant::now();
        let inserted = self.store(stored).await.map_err(EmitterError::Persist);
        let took = started.elapsed();
        self.settling.metrics.inserted(inserted.is_err(), took);
        let hook = self.config().hooks.on_emit_insert.as_deref();
        guarded("on_emit_insert", || hook.map(|hook| hook(took, inserted.as_ref().err())));
        inserted
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<(), EmitterError> {
        if self.state.compare_exchange(NEW, STARTED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(EmitterError::AlreadyStarted);
        }
        describe();
        self.client.start();
        let config = self.config();
        let beat = |name: &str, interval| self.hearts.add(name, interval, config.health_grace);
        let workers = match config.insert_workers {
            0 => B::INSERT_WORKERS,
            workers => workers,
        };
        for _ in 0..if self.inserts.is_some() { workers } else { 0 } {
            self.loops.spawn(Arc::clone(self).run_inserts());
        }
        // More writers than the engine can use would only wait for each other.
        for number in 0..config.delete_workers.get().min(B::INSERT_WORKERS) {
            let beat = beat(&format!("settle {number}"), config.database_timeout);
            self.settlers.spawn(run_worker(Arc::clone(&self.settling), self.pool.clone(), self.finish.clone(), beat));
        }
        if config.retransmit {
            let beating = beat("retransmit", config.retransmit_interval);
            self.loops.spawn(retransmit::run_loop(Arc::clone(self), beating));
            if config.expiry.is_some() || config.dead_letter_retention.is_some() {
                let beating = beat("expiry", config.expiry.unwrap_or_default().interval);
                self.loops.spawn(run_expiry(Arc::clone(self), beating));
            }
            if let Some(retain) = config.retain_delivered {
                self.loops.spawn(run_purge(Arc::clone(self), beat("purge", retain.purge_interval)));
            }
        }
        if let Some(metrics) = config.metrics {
            self.loops.spawn(run_observer(Arc::clone(self), beat("observe", metrics.poll_interval)));
        }
        let (queue, waiting) = mpsc::channel(config.async_buffer.get());
        *self.asynchronous.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        self.loops.spawn(Arc::clone(self).run_asynchronous(waiting));
        tracing::info!(
            engine = B::NAME,
            retransmit = config.retransmit,
            batch_size = config.batch.batch_size,
            "durable emitter started"
        );
        Ok(())
    }

    async fn run_asynchronous(self: Arc<Self>, mut waiting: mpsc::Receiver<CloudEvent>) {
        let mut running = tokio::task::JoinSet::new();
        while let Some(event) = waiting.recv().await {
            if running.len() >= ASYNC_CONCURRENCY {
                running.join_next().await;
            }
            let inner = Arc::clone(&self);
            running.spawn(async move {
                if let Err(error) = inner.emit(event).await {
                    tracing::warn!(%error, "an asynchronous emit failed");
                }
            });
        }
        while running.join_next().await.is_some() {}
    }

    pub(super) async fn stop(&self, limit: Duration) -> StopReport {
        let deadline = Instant::now() + limit;
        let settle_from = deadline - limit / SETTLE_SHARE;
        // What was accepted asynchronously is still emitted, so this queue ends before the state changes.
        let asynchronous = self.asynchronous.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = asynchronous {
            let empty = async {
                while queue.capacity() < queue.max_capacity() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let _ = timeout_at(settle_from, empty).await;
        }
        let was = self.state.swap(STOPPED, Ordering::SeqCst);
        self.emits.close();
        let mut complete = timeout_at(settle_from, self.emits.wait()).await.is_ok();
        if let Some(inserts) = &self.inserts {
            inserts.close().await;
        }
        self.stopping.cancel();
        self.loops.close();
        complete &= timeout_at(settle_from, self.loops.wait()).await.is_ok();
        complete &= self.client.stop(settle_from.saturating_duration_since(Instant::now())).await.complete;
        if let Some(fallback) = &self.fallback {
            complete &= fallback.stop(settle_from).await;
        }
        self.finish.cancel();
        self.settling.hurry();
        self.settlers.close();
        complete &= timeout_at(deadline, self.settlers.wait()).await.is_ok();
        let left = self.settling.unsettled();
        if was == STARTED {
            tracing::info!(complete, left, "durable emitter stopped");
        }
        StopReport { complete: complete && left == 0, left }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.hearts.problems();
        match self.state.load(Ordering::SeqCst) {
            NEW => problems.push("not started".to_owned()),
            STOPPED => problems.push("stopped".to_owned()),
            _ => {}
        }
        let open_for = self.client.breaker_open_for();
        if open_for > self.config().health_grace {
            problems.push(format!("the endpoint fails: nothing was delivered for {} s", open_for.as_secs()));
        }
        let oldest = Duration::from_millis(self.oldest_ms.load(Ordering::Relaxed));
        if let Some(expiry) = self.config().expiry
            && oldest > expiry.ttl.mul_f64(0.8)
        {
            problems.push(format!(
                "the oldest message is {} s old and expires at {} s",
                oldest.as_secs(),
                expiry.ttl.as_secs()
            ));
        }
        problems
    }
}

/// The error of an emit that was accepted and then met the stop.
fn lost() -> Error {
    Error::setup("store a message in the outbox", "the emitter was stopped: emitter closed")
}
