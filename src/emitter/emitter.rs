//! The handle of a durable emitter, and its builder.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::chip::client::batch::BatchClient;
use crate::chip::transport::grpc::Destination;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::config::Config;
use crate::emitter::context::within;
use crate::emitter::delivery::core::Core;
use crate::emitter::delivery::handoff::Handover;
use crate::emitter::error::Error;
use crate::emitter::health::HealthReport;
use crate::emitter::metrics::SourceType;
use crate::emitter::metrics::stats::Stats;
use crate::outbox::counts::{QueueStats, observe};
use crate::outbox::row::Stored;
use crate::service::StopReport;
use crate::store::{Backend, Fault, answered, hold};

/// Time between two checks of [`DurableEmitter::flush`].
const FLUSH_POLL: Duration = Duration::from_millis(20);

/// Delivers the outbox of a database to Chip Ingress, at least once, and stores events of its own.
///
/// [`publish`](Self::publish) returns when the event is stored; everything after that happens in the background, and no failure of the network,
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
/// emitter.publish(CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?).await?;
/// assert!(emitter.flush(Duration::from_secs(10)).await?);
/// assert_eq!(emitter.stats().delivered, 1);
/// emitter.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct DurableEmitter<B: Backend> {
    core: Arc<Core<B>>,
}

impl<B: Backend> Clone for DurableEmitter<B> {
    fn clone(&self) -> Self {
        DurableEmitter { core: Arc::clone(&self.core) }
    }
}

impl<B: Backend> DurableEmitter<B> {
    /// Begins an emitter on a migrated database, to an endpoint: `host:port`, a [`GrpcConfig`](crate::chip::GrpcConfig) or an
    /// `Arc<dyn Transport>`.
    pub fn builder(pool: Pool<B>, endpoint: impl Into<Destination>) -> DurableEmitterBuilder<B> {
        DurableEmitterBuilder { pool, destination: endpoint.into(), config: Config::default() }
    }

    /// Starts to accept and to send.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] the second time, also after a stop.
    pub async fn start(&self) -> Result<(), Error> {
        self.core.start()
    }

    /// Stores an event and returns the id of its row; it is delivered afterwards. Concurrent emits share their inserts.
    ///
    /// Without an idempotency key of its own the event gets one by [`Config::idempotency_key`].
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], [`Error::TooLarge`] and [`Error::Persist`]; nothing is stored, except perhaps after
    /// an [`Error::Unknown`](crate::Error::Unknown). Never because of the network or the server.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have stored the event; give it an idempotency key if you mean to try again.
    pub async fn publish(&self, event: CloudEvent) -> Result<Uuid, Error> {
        self.core.inserter.publish(event).await
    }

    /// Takes an event to be stored in the background; errors are logged. Drops it, and counts that, when
    /// [`async_buffer`](Config::async_buffer) or [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES) are waiting, or the emitter is not running.
    pub fn publish_async(&self, event: CloudEvent) {
        let pair = SourceType::of(event.source(), event.event_type());
        if !self.core.background.push(event) {
            self.core.context.counters.async_dropped();
            self.core.context.metrics.async_dropped(&pair);
        }
    }

    /// Sends a row from memory that was just written by [`publish_in`](crate::outbox::publish_in) or a turn. Call it after the commit.
    ///
    /// Never fails and never waits: a row that finds no place is sent by a host as soon as there is one, at the latest when the claim of its insert is
    /// over.
    pub fn deliver(&self, stored: Stored) -> Handover {
        if !self.core.signals.is_running() {
            return Handover::LeftWaiting;
        }
        let key = stored.key;
        let handover = self.core.handoff.deliver(stored);
        if handover == Handover::LeftWaiting {
            self.core.releases.push(key);
        }
        handover
    }

    /// Waits until nothing undelivered is in the outbox, and answers whether that was so within the deadline.
    ///
    /// It makes the loops hurry. What another process holds, or what waits for its next attempt, takes its time.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] when the outbox cannot be read.
    pub async fn flush(&self, deadline: Duration) -> Result<bool, Error> {
        let deadline = from_now(deadline);
        let mut nap = FLUSH_POLL / 10;
        loop {
            if self.core.handoff.in_flight.count() == 0 && !self.has_undelivered().await? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.core.writer.queue().hurry();
            self.core.signals.retransmit.notify_one();
            tokio::time::sleep(nap).await;
            nap = (nap * 2).min(FLUSH_POLL);
        }
    }

    async fn has_undelivered(&self) -> Result<bool, Error> {
        let read = answered(&self.core.pool, async { B::has_undelivered(&mut *hold(&self.core.pool).await?).await });
        Ok(self.read("look into the outbox", read).await?)
    }

    async fn read<T>(
        &self,
        attempt: &str,
        read: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, crate::error::Error> {
        within(self.core.config().database_timeout, read).await.map_err(|fault| fault.during(attempt))
    }

    /// Returns the counts of the outbox.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] when the outbox cannot be read.
    pub async fn queue_stats(&self) -> Result<QueueStats, Error> {
        let config = self.core.config();
        let ttl = config.expiry.map_or(Duration::MAX, |expiry| expiry.ttl);
        let lead = config.metrics.map_or(Duration::ZERO, |metrics| metrics.near_expiry_lead);
        Ok(self.read("observe the outbox", observe(&self.core.pool, ttl, lead)).await?)
    }

    /// Returns the counts of this emitter since its start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.context.counters.snapshot()
    }

    /// The batch client, for its state.
    #[must_use]
    pub fn client(&self) -> &BatchClient {
        &self.core.handoff.client
    }

    /// Whether it is started and not stopped.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn ready(&self) -> Result<(), Error> {
        if self.core.signals.is_running() { Ok(()) } else { Err(Error::NotStarted) }
    }

    /// What is wrong with it, if anything: a loop that stands still, an endpoint that fails, messages about to expire.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        HealthReport::of(&self.core.problems())
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
        self.core.stop(limit).await
    }

    /// [`stop`](Self::stop) within [`Config::shutdown_timeout`].
    pub async fn close(&self) -> StopReport {
        self.stop(self.core.config().shutdown_timeout).await
    }
}

impl<B: Backend> fmt::Debug for DurableEmitter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableEmitter").field("engine", &B::NAME).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// An emitter that is being built; see [`DurableEmitter::builder`].
#[must_use = "nothing happens before `start` or `build`"]
pub struct DurableEmitterBuilder<B: Backend> {
    pool: Pool<B>,
    destination: Destination,
    config: Config,
}

impl<B: Backend> DurableEmitterBuilder<B> {
    /// Replaces the configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// For a plugin that shares the database with a host: it stores and sends once, and leaves all else to the host.
    pub fn plugin(self) -> Self {
        self.configure(|config| config.retransmit = false)
    }

    /// The emitter, not started. Must be called in a Tokio runtime; does not connect.
    ///
    /// # Errors
    ///
    /// [`Error::Config`].
    pub fn build(self) -> Result<DurableEmitter<B>, Error> {
        let transport = self.destination.into_transport()?;
        Ok(DurableEmitter { core: Arc::new(Core::new(self.pool, transport, self.config)?) })
    }

    /// The emitter, started.
    ///
    /// # Errors
    ///
    /// [`Error::Config`].
    pub async fn start(self) -> Result<DurableEmitter<B>, Error> {
        let emitter = self.build()?;
        emitter.start().await?;
        Ok(emitter)
    }
}
