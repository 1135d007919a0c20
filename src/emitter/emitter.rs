//! The durable emitter itself: store, send, settle.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::batch::BatchClient;
use crate::chip::transport::Transport;
use crate::chip::transport::grpc::Destination;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::builder::DurableEmitterBuilder;
use crate::emitter::config::Config;
use crate::emitter::delivery::lifecycle::{NEW, STARTED};
use crate::emitter::delivery::release_queue::Leftovers;
use crate::emitter::error::EmitterError;
use crate::emitter::health::HealthReport;
use crate::emitter::insert::Handover;
use crate::emitter::insert::queue::InsertQueue;
use crate::emitter::metrics::stats::Stats;
use crate::emitter::metrics::{EmitterMetrics, Pair, Phase};
use crate::emitter::outcomes::fallback::Fallback;
use crate::emitter::outcomes::{Delivery, Settling, within};
use crate::error::Error;
use crate::heartbeat::Heartbeats;
use crate::outbox::counts::{QueueStats, observe};
use crate::outbox::row::Stored;
use crate::room::{Place, Room};
use crate::service::StopReport;
use crate::store::{Backend, Fault, answered, hold};

/// Time between two checks of [`DurableEmitter::flush`].
const FLUSH_POLL: Duration = Duration::from_millis(20);

/// Delivers the outbox of a database to Chip Ingress, at least once, and stores events of its own.
///
/// [`emit`](Self::emit) returns when the event is stored; everything after that happens in the background, and no failure of the network,
/// the server or a queue is a failure of the emit. Fresh rows are sent from memory. A host also claims what is due in the table,
/// whoever wrote it; any number of hosts can share a database, because a claim is exclusive. Rows leave the table when the server has
/// answered for them, or into the dead letters.
///
/// Cheap to clone. Start it once and [`stop`](Self::stop) it before the database closes; dropping it stops nothing.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("flights.sqlite3"))).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
/// use eventbox::{CloudEvent, emitter::DurableEmitter};
///
/// # let server = eventbox::ingress::Ingress::builder().serve("127.0.0.1:0").await?;
/// # let endpoint = server.local_addr().to_string();
/// let emitter = DurableEmitter::builder(pool, endpoint.as_str()).start().await?;
/// emitter.emit(CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?).await?;
/// assert!(emitter.flush(Duration::from_secs(10)).await?);
/// assert_eq!(emitter.stats().delivered, 1);
/// emitter.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct DurableEmitter<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for DurableEmitter<B> {
    fn clone(&self) -> Self {
        DurableEmitter { inner: Arc::clone(&self.inner) }
    }
}

/// State that the loops and the handles share.
pub(crate) struct Inner<B: Backend> {
    pub(crate) pool: Pool<B>,
    pub(crate) client: BatchClient,
    pub(crate) settling: Arc<Settling>,
    pub(crate) inserts: Option<InsertQueue>,
    pub(crate) stopping: CancellationToken,
    /// Wakes the retransmission before its tick.
    pub(crate) nudge: Notify,
    /// Rows whose claims are to be given up.
    pub(crate) leftovers: Leftovers,
    pub(crate) state: AtomicU8,
    /// Emits that are under way.
    pub(crate) emits: TaskTracker,
    pub(crate) loops: TaskTracker,
    pub(crate) settlers: TaskTracker,
    pub(crate) finish: CancellationToken,
    pub(crate) hearts: Heartbeats,
    pub(crate) oldest_ms: AtomicU64,
    /// The most rows that an observation found.
    pub(crate) most_rows: AtomicI64,
    pub(crate) fallback: Option<Arc<Fallback>>,
    /// Empties the queue of asynchronous emits.
    pub(crate) asynchronous_loop: TaskTracker,
    pub(crate) asynchronous: Mutex<Option<mpsc::Sender<(CloudEvent, Place)>>>,
    pub(crate) asynchronous_room: Room,
}

impl<B: Backend> Inner<B> {
    pub(crate) fn config(&self) -> &Config {
        &self.settling.config
    }

    pub(crate) fn note_oldest(&self, age: Duration) {
        self.oldest_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Queues a message whose row is claimed; too late for its request to end within the claim, it is not sent.
    pub(crate) fn send(&self, event: CloudEvent, delivery: Delivery, phase: Phase) -> Result<(), SendError> {
        let (claimed_until, attempt) = (delivery.claimed_until(), delivery.attempts());
        let send_before = claimed_until.checked_sub(self.config().batch.publish_timeout).unwrap_or(claimed_until);
        let pair = delivery.pair().clone();
        let (settling, fallback) = (Arc::clone(&self.settling), self.fallback.clone());
        let callback = Box::new(move |sent| match fallback {
            Some(fallback) => fallback.settle(delivery, sent, send_before),
            None => settling.settle(delivery, &sent),
        });
        let queued = self.client.queue_until(event, attempt, Some(send_before), Some(callback));
        if let Err(SendError::BufferFull) = queued {
            self.settling.metrics.buffer_full(phase, &pair);
        }
        queued
    }
}

impl<B: Backend> DurableEmitter<B> {
    /// Begins an emitter on a migrated database, to an endpoint: `host:port`, a [`GrpcConfig`](crate::chip::GrpcConfig) or an
    /// `Arc<dyn Transport>`.
    pub fn builder(pool: Pool<B>, endpoint: impl Into<Destination>) -> DurableEmitterBuilder<B> {
        DurableEmitterBuilder::new(pool, endpoint.into())
    }

    pub(crate) fn new(pool: Pool<B>, transport: Arc<dyn Transport>, mut config: Config) -> Result<Self, EmitterError> {
        config.batch.shutdown_timeout = config.shutdown_timeout;
        config.check()?;
        let client = BatchClient::new(transport, config.batch.clone())?;
        let metrics = EmitterMetrics::new(config.batch.client_name.as_deref());
        let inserts = (config.insert_batch_size > 0).then(|| InsertQueue::new(config.insert_batch_size));
        let fallback = config.fallback;
        let settling = Settling::new(config, metrics, B::WRITERS);
        let fallback = fallback.then(|| Fallback::new(Arc::clone(client.sender()), Arc::clone(&settling)));
        let inner = Inner {
            pool,
            client,
            settling,
            inserts,
            stopping: CancellationToken::new(),
            nudge: Notify::new(),
            leftovers: Leftovers::default(),
            state: AtomicU8::new(NEW),
            emits: TaskTracker::new(),
            loops: TaskTracker::new(),
            settlers: TaskTracker::new(),
            finish: CancellationToken::new(),
            hearts: Heartbeats::default(),
            oldest_ms: AtomicU64::new(0),
            most_rows: AtomicI64::new(0),
            fallback,
            asynchronous_loop: TaskTracker::new(),
            asynchronous: Mutex::new(None),
            asynchronous_room: Room::new(),
        };
        Ok(DurableEmitter { inner: Arc::new(inner) })
    }

    /// Starts to accept and to send.
    ///
    /// # Errors
    ///
    /// [`EmitterError::AlreadyStarted`] the second time, also after a stop.
    pub async fn start(&self) -> Result<(), EmitterError> {
        self.inner.start()
    }

    /// Stores an event and returns the id of its row; it is delivered afterwards. Concurrent emits share their inserts.
    ///
    /// Without an idempotency key of its own the event gets one by [`Config::idempotency_key`].
    ///
    /// # Errors
    ///
    /// [`EmitterError::NotStarted`], [`EmitterError::TooLarge`] and [`EmitterError::Persist`]; nothing is stored, except perhaps after
    /// an [`Error::Unknown`](crate::Error::Unknown). Never because of the network or the server.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have stored the event; give it an idempotency key if you mean to try again.
    pub async fn emit(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        self.inner.emit(event).await
    }

    /// Takes an event to be stored in the background; errors are logged. Drops it, and counts that, when
    /// [`async_buffer`](Config::async_buffer) or [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES) are waiting, or the emitter is not running.
    pub fn emit_async(&self, event: CloudEvent) {
        let pair = Pair::of(event.source(), event.event_type());
        let queue = self.inner.asynchronous.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.inner.asynchronous_room.try_take(event.encoded_len());
        let queued = queue.as_ref().zip(place).is_some_and(|(queue, place)| queue.try_send((event, place)).is_ok());
        if !queued {
            self.inner.settling.counters.async_dropped();
            self.inner.settling.metrics.async_dropped(&pair);
        }
    }

    /// Sends a row from memory that was just written by [`publish_in`](crate::outbox::publish_in) or a turn. Call it after the commit.
    ///
    /// Never fails and never waits: a row that finds no place is sent by a host as soon as there is one, at the latest when the claim of its insert is
    /// over.
    pub fn deliver(&self, stored: Stored) -> Handover {
        if self.inner.state.load(Ordering::SeqCst) != STARTED {
            return Handover::LeftWaiting;
        }
        let key = stored.key;
        let handover = self.inner.deliver(stored);
        if handover == Handover::LeftWaiting {
            self.inner.leftovers.note(key);
        }
        handover
    }

    /// Waits until nothing undelivered is in the outbox, and answers whether that was so within the deadline.
    ///
    /// It makes the loops hurry. What another process holds, or what waits for its next attempt, takes its time.
    ///
    /// # Errors
    ///
    /// [`EmitterError::Database`] when the outbox cannot be read.
    pub async fn flush(&self, deadline: Duration) -> Result<bool, EmitterError> {
        let deadline = from_now(deadline);
        let mut nap = FLUSH_POLL / 10;
        loop {
            if self.inner.settling.unsettled() == 0 && !self.has_undelivered().await? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.inner.settling.hurry();
            self.inner.nudge.notify_one();
            tokio::time::sleep(nap).await;
            nap = (nap * 2).min(FLUSH_POLL);
        }
    }

    async fn has_undelivered(&self) -> Result<bool, EmitterError> {
        let read = answered(&self.inner.pool, async { B::has_undelivered(&mut *hold(&self.inner.pool).await?).await });
        Ok(self.read("look into the outbox", read).await?)
    }

    async fn read<T>(&self, attempt: &str, read: impl Future<Output = Result<T, Fault>>) -> Result<T, Error> {
        within(self.inner.config().database_timeout, read).await.map_err(|fault| fault.during(attempt))
    }

    /// Returns the counts of the outbox.
    ///
    /// # Errors
    ///
    /// [`EmitterError::Database`] when the outbox cannot be read.
    pub async fn queue_stats(&self) -> Result<QueueStats, EmitterError> {
        let config = self.inner.config();
        let ttl = config.expiry.map_or(Duration::MAX, |expiry| expiry.ttl);
        let lead = config.metrics.map_or(Duration::ZERO, |metrics| metrics.near_expiry_lead);
        Ok(self.read("observe the outbox", observe(&self.inner.pool, ttl, lead)).await?)
    }

    /// Returns the counts of this emitter since its start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.settling.counters.snapshot()
    }

    /// The batch client, for its state.
    #[must_use]
    pub fn client(&self) -> &BatchClient {
        &self.inner.client
    }

    /// Whether it is started and not stopped.
    ///
    /// # Errors
    ///
    /// [`EmitterError::NotStarted`].
    pub fn ready(&self) -> Result<(), EmitterError> {
        if self.inner.state.load(Ordering::SeqCst) == STARTED { Ok(()) } else { Err(EmitterError::NotStarted) }
    }

    /// What is wrong with it, if anything: a loop that stands still, an endpoint that fails, messages about to expire.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        HealthReport::of(&self.inner.problems())
    }

    /// Accepts no more messages, stores the accepted ones, sends the queued ones, writes the outcomes and closes the
    /// transport, all within `limit`.
    ///
    /// [`StopReport::left`] counts the rows without an outcome. They stay in the outbox, and are sent again when their
    /// claims have ended. A second stop returns soon. The database must outlive it.
    ///
    /// # Cancel safety
    ///
    /// Safe: call it again to wait for the rest.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.inner.stop(limit).await
    }

    /// [`stop`](Self::stop) within [`Config::shutdown_timeout`].
    pub async fn close(&self) -> StopReport {
        self.stop(self.inner.config().shutdown_timeout).await
    }
}

impl<B: Backend> fmt::Debug for DurableEmitter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableEmitter").field("engine", &B::NAME).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
