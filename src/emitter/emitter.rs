//! The handle of a durable emitter, and its builder.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::chip::client::batch::BatchClient;
use crate::chip::client::breaker::BreakerReport;
use crate::chip::transport::grpc::Destination;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::config::Config;
use crate::emitter::context::within;
use crate::emitter::delivery::core::Core;
use crate::emitter::delivery::handoff::Handover;
use crate::emitter::delivery::paused::look;
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
/// [`publish`](Self::publish) returns when the event is stored. The delivery follows in the background, and no failure
/// of the network, the server or a queue is a failure of `publish`. The emitter sends fresh rows from memory. A host
/// also claims the due rows of all processes. Any number of hosts can share a database, because a claim is exclusive. A
/// row leaves the table when the server has answered for it, or as a dead letter.
///
/// Cheap to clone. Start it once, and [`stop`](Self::stop) it before the database closes. Dropping it stops nothing.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let options = eventbox::sqlite_options(directory.path().join("flights.sqlite3"));
/// # let pool = sqlx::SqlitePool::connect_with(options).await?;
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
    /// Begins to build an emitter on a migrated database. The endpoint is `host:port`, a
    /// [`GrpcConfig`](crate::chip::GrpcConfig) or an `Arc<dyn Transport>`.
    pub fn builder(pool: Pool<B>, endpoint: impl Into<Destination>) -> DurableEmitterBuilder<B> {
        DurableEmitterBuilder { pool, destination: endpoint.into(), config: Config::default() }
    }

    /// Starts to accept and to send messages.
    ///
    /// Reads the paused destinations first, so that nothing is sent to them from the beginning. A database that does
    /// not answer delays the start by [`Config::database_timeout`] at most, and is no error.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`] the second time, also after a stop.
    pub async fn start(&self) -> Result<(), Error> {
        if let Err(fault) = look(&self.core).await {
            tracing::warn!(error = %fault.0, "the paused destinations could not be read at the start of the emitter");
        }
        self.core.start()
    }

    /// Stores an event and returns the id of its row. The delivery follows. Concurrent calls share their inserts.
    ///
    /// An event without an idempotency key gets one by [`Config::idempotency_key`].
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], [`Error::TooLarge`] and [`Error::Persist`]. Nothing is stored then, except perhaps after
    /// an [`Error::Unknown`](crate::Error::Unknown). The network and the server cause none of them.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have stored the event. Give the event an idempotency key if you want to retry.
    pub async fn publish(&self, event: CloudEvent) -> Result<Uuid, Error> {
        self.core.inserter.publish(event).await
    }

    /// Stores an event in the background, and logs errors.
    ///
    /// Drops the event, and counts that, when the emitter is not running, or when
    /// [`async_buffer`](Config::async_buffer) events or [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES) wait already.
    pub fn publish_async(&self, event: CloudEvent) {
        let pair = SourceType::of(event.source(), event.event_type());
        if !self.core.background.push(event) {
            self.core.context.counters.async_dropped();
            self.core.context.metrics.async_dropped(&pair);
        }
    }

    /// Sends a row from memory that a turn or [`publish_in`](crate::outbox::publish_in) just wrote. Call it after the
    /// commit.
    ///
    /// Never fails and never waits. A row of a paused destination waits in the outbox. When the queue is full, up to
    /// 10,000 rows wait in memory for a second, and are sent as soon as the queue has room. A host sends further rows,
    /// at the latest when the claim of their insert has ended.
    pub fn deliver(&self, stored: Stored) -> Handover {
        if !self.core.signals.is_running() {
            return Handover::LeftWaiting;
        }
        self.core.overflow.deliver(stored)
    }

    /// Waits until the outbox has no undelivered row. Returns whether that was so within `deadline`.
    ///
    /// The loops hurry meanwhile. Rows that another process claimed, or that wait for their next attempt, are not sent
    /// earlier.
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

    /// Returns the batch client, for its state.
    #[must_use]
    pub fn client(&self) -> &BatchClient {
        &self.core.handoff.client
    }

    /// Returns the breakers that are not closed. An emitter has one endpoint, and so at most one breaker.
    ///
    /// A [`Runtime`](crate::runtime::Runtime) with this emitter tells operators of them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use eventbox::{Backend, emitter::DurableEmitter};
    /// # fn f<B: Backend>(emitter: &DurableEmitter<B>) {
    /// for breaker in emitter.open_breakers() {
    ///     eprintln!("{} fails for {:?}: {:?}", breaker.endpoint, breaker.open_for, breaker.last_error);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn open_breakers(&self) -> Vec<BreakerReport> {
        self.client().open_breaker().into_iter().collect()
    }

    /// Succeeds while the emitter is started and not stopped.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn ready(&self) -> Result<(), Error> {
        if self.core.signals.is_running() { Ok(()) } else { Err(Error::NotStarted) }
    }

    /// Returns the problems of the emitter: a loop that stands still, an endpoint that fails, messages about to expire.
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

    /// Stops within [`Config::shutdown_timeout`], as [`stop`](Self::stop) does.
    pub async fn close(&self) -> StopReport {
        self.stop(self.core.config().shutdown_timeout).await
    }
}

impl<B: Backend> fmt::Debug for DurableEmitter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableEmitter").field("engine", &B::NAME).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Builder of an emitter; see [`DurableEmitter::builder`].
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

    /// Makes the emitter a plugin: it stores messages and sends each once, and a host on the same database does the
    /// rest.
    pub fn plugin(self) -> Self {
        self.configure(|config| config.retransmit = false)
    }

    /// Returns the emitter, not started. Call it inside a Tokio runtime. It does not connect.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::ClaimTooShort`].
    pub fn build(self) -> Result<DurableEmitter<B>, Error> {
        let transport = self.destination.into_transport()?;
        Ok(DurableEmitter { core: Arc::new(Core::new(self.pool, transport, self.config)?) })
    }

    /// Returns the emitter, started.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::ClaimTooShort`].
    pub async fn start(self) -> Result<DurableEmitter<B>, Error> {
        let emitter = self.build()?;
        emitter.start().await?;
        Ok(emitter)
    }
}
