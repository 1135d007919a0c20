//! Publishing through an emitter: the checks, an insert that is shared with others, the hand-over to the client.

pub(crate) mod background;
pub(crate) mod queue;

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::chip::client::breaker::BreakerState;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::context::{Context, guarded};
use crate::emitter::delivery::handoff::{Handoff, Handover};
use crate::emitter::delivery::overflow::Overflow;
use crate::emitter::delivery::signals::Signals;
use crate::emitter::error::Error;
use crate::emitter::insert::queue::{InsertQueue, Inserted, NotQueued, Request, closed, insert_all, interrupted, late};
use crate::emitter::metrics::SourceType;
use crate::heartbeat::Beat;
use crate::outbox::row::{Stored, lay_together, prepare};
use crate::room::MAX_QUEUE_BYTES;
use crate::store::{Backend, OutboxKey};

/// Longest wait of an insert for room in the queue of the client.
const HANDOVER_WAIT: Duration = Duration::from_millis(50);

/// Time between two checks for room.
const HANDOVER_POLL: Duration = Duration::from_millis(1);

/// Inserts messages and hands them over.
pub(crate) struct Inserter<B: Backend> {
    context: Arc<Context>,
    pool: Pool<B>,
    handoff: Arc<Handoff>,
    overflow: Arc<Overflow<B>>,
    signals: Arc<Signals>,
    /// `None` when each message has an insert of its own.
    queue: Option<InsertQueue>,
    under_way: TaskTracker,
}

impl<B: Backend> Inserter<B> {
    pub(crate) fn new(pool: Pool<B>, handoff: Arc<Handoff>, overflow: Arc<Overflow<B>>, signals: Arc<Signals>) -> Self {
        let context = Arc::clone(&handoff.context);
        let batch_size = context.config.insert_batch_size;
        let queue = (batch_size > 0).then(|| InsertQueue::new(batch_size));
        Inserter { context, pool, handoff, overflow, signals, queue, under_way: TaskTracker::new() }
    }

    /// Returns the number of workers that inserts need: none when each message has an insert of its own.
    pub(crate) fn workers(&self) -> usize {
        match (&self.queue, self.context.config.insert_workers) {
            (None, _) => 0,
            (Some(_), 0) => B::INSERT_WORKERS,
            (Some(_), workers) => workers,
        }
    }

    /// Returns the fill of the queue of inserts, 0 to 1; 0 without a queue.
    pub(crate) fn fill_ratio(&self) -> f64 {
        self.queue.as_ref().map_or(0.0, InsertQueue::fill_ratio)
    }

    /// Waits for the messages under way, then closes the queue. Returns whether they ended before `deadline`.
    pub(crate) async fn stop(&self, deadline: Instant) -> bool {
        self.under_way.close();
        let complete = timeout_at(deadline, self.under_way.wait()).await.is_ok();
        if let Some(queue) = &self.queue {
            queue.close();
        }
        complete
    }

    /// Checks a message, stores it and hands it over. Returns the id of its row.
    pub(crate) async fn publish(&self, event: CloudEvent) -> Result<Uuid, Error> {
        let started = Instant::now();
        let under_way = self.under_way.token();
        let pair = SourceType::of(event.source(), event.event_type());
        let published = self.check_and_store(event).await;
        drop(under_way);
        self.context.metrics.emitted(&pair, published.is_err(), started.elapsed());
        if published.is_ok() {
            self.context.counters.published();
        }
        published
    }

    async fn check_and_store(&self, event: CloudEvent) -> Result<Uuid, Error> {
        if !self.signals.is_running() {
            return Err(Error::NotStarted);
        }
        let config = &self.context.config;
        let stored = prepare(event, config.claim_ttl, config.idempotency_key);
        let (bytes, limit) = (stored.payload.len(), config.batch.effective_request_limit());
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let started = Instant::now();
        let inserted = self.store(stored).await.map_err(Error::Persist);
        let took = started.elapsed();
        self.context.metrics.inserted(inserted.is_err(), took);
        let hook = config.hooks.on_insert.as_deref();
        guarded("on_insert", || hook.map(|hook| hook(took, inserted.as_ref().err())));
        inserted
    }

    async fn store(&self, stored: Stored) -> Inserted {
        let Some(queue) = &self.queue else {
            let (mut inserted, left) = self.insert(vec![stored]).await;
            self.overflow.release(left).await;
            return inserted.pop().unwrap_or_else(|| Err(Arc::new(closed())));
        };
        let (reply, inserted) = oneshot::channel();
        let insert_by = from_now(self.context.config.database_timeout);
        match queue.push(Request { stored, reply, insert_by, place: None }).await {
            Ok(()) => inserted.await.unwrap_or_else(|_| Err(Arc::new(interrupted()))),
            Err(NotQueued::Closed) => Err(Arc::new(closed())),
            Err(NotQueued::Late) => Err(Arc::new(late())),
        }
    }

    /// Inserts rows and hands over the inserted ones. Returns also the keys of those that found no place.
    async fn insert(&self, mut stored: Vec<Stored>) -> (Vec<Inserted>, Vec<OutboxKey>) {
        let context = &self.context;
        let (claim_ttl, limit) = (context.config.claim_ttl, context.config.database_timeout);
        lay_together(&mut stored);
        let started = Instant::now();
        let done = insert_all(&self.pool, &context.write_permits, &mut stored, claim_ttl, limit).await;
        let operation = if stored.len() == 1 { "insert" } else { "insert_batch" };
        context.metrics.store_operation(operation, done.iter().any(Result::is_err), started.elapsed());
        let mut left = Vec::new();
        let deliver = |(stored, done): (Stored, Result<(), _>)| {
            done.map(|()| {
                let key = stored.key;
                if self.handoff.deliver(stored) == Handover::LeftWaiting {
                    left.push(key);
                }
                key.id
            })
        };
        let inserted = stored.into_iter().zip(done).map(deliver).collect();
        (inserted, left)
    }

    /// Inserts queued messages until the queue is closed and empty.
    pub(crate) async fn run_worker(self: Arc<Self>, beat: Beat) {
        let config = &self.context.config;
        let Some(queue) = &self.queue else { return };
        let _worker = queue.worker();
        while let Some(requests) = queue.next(config.insert_batch_size.max(1), config.insert_flush_interval).await {
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
            self.wait_for_the_client(&stored).await;
            let (inserted, left) = self.insert(stored).await;
            for ((reply, _place), inserted) in replies.into_iter().zip(inserted) {
                // A caller that gave up does not receive the answer. Its event is stored all the same.
                let _ = reply.send(inserted);
            }
            self.overflow.release(left).await;
        }
    }

    /// Waits until the queue of the client has room for the rows, because a row without a place costs a claim later.
    /// Waits [`HANDOVER_WAIT`] at most, and not at all while the breaker is open: an insert must go on then.
    async fn wait_for_the_client(&self, rows: &[Stored]) {
        let client = &self.handoff.client;
        let until = from_now(HANDOVER_WAIT);
        let enough = rows.len().min(self.context.config.batch.message_buffer.get());
        let bytes = rows.iter().map(|stored| stored.payload.len()).sum::<usize>().min(MAX_QUEUE_BYTES);
        while (client.free() < enough || client.free_bytes() < bytes)
            && client.breaker_state() == BreakerState::Closed
            && !self.signals.stopping.is_cancelled()
            && Instant::now() < until
        {
            tokio::time::sleep(HANDOVER_POLL).await;
        }
    }
}
