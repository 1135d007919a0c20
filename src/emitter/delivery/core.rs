//! The core of an emitter: its parts, their start and their stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Pool;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::chip::client::batch::BatchClient;
use crate::chip::client::breaker::FLAP_WINDOW;
use crate::chip::transport::Transport;
use crate::clock::{LONGEST, from_now};
use crate::emitter::config::Config;
use crate::emitter::context::Context;
use crate::emitter::delivery::handoff::Handoff;
use crate::emitter::delivery::overflow::Overflow;
use crate::emitter::delivery::paused::{PAUSE_POLL_INTERVAL, Paused, run_pauses};
use crate::emitter::delivery::retransmit::run_retransmission;
use crate::emitter::delivery::signals::Signals;
use crate::emitter::delivery::upkeep::{RECALL_INTERVAL, run_expiry, run_observer, run_purge, run_recall};
use crate::emitter::error::Error;
use crate::emitter::insert::Inserter;
use crate::emitter::insert::background::Background;
use crate::emitter::metrics::describe;
use crate::emitter::outcomes::Outcomes;
use crate::emitter::outcomes::fallback::Fallback;
use crate::emitter::outcomes::in_flight::InFlight;
use crate::emitter::outcomes::writer::OutcomeWriter;
use crate::heartbeat::Heartbeats;
use crate::service::StopReport;
use crate::store::Backend;

/// Part of a stop's time, as a divisor, that is kept for writing the outcomes of sent messages.
const OUTCOME_SHARE: u32 = 5;

/// The parts of an emitter. Handles and loops share it.
pub(crate) struct Core<B: Backend> {
    pub(crate) context: Arc<Context>,
    pub(crate) pool: Pool<B>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) handoff: Arc<Handoff>,
    pub(crate) inserter: Arc<Inserter<B>>,
    pub(crate) background: Background,
    pub(crate) overflow: Arc<Overflow<B>>,
    pub(crate) writer: Arc<OutcomeWriter<B>>,
    pub(crate) observed: Observed,
    loops: TaskTracker,
    writers: TaskTracker,
    hearts: Heartbeats,
}

/// Results of the observations of the outbox.
#[derive(Default)]
pub(crate) struct Observed {
    oldest_ms: AtomicU64,
    most_rows: AtomicI64,
}

impl Observed {
    /// Notes the age of the oldest row that is not delivered.
    pub(crate) fn note_oldest(&self, age: Duration) {
        self.oldest_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes a number of rows, and returns the largest one so far.
    pub(crate) fn note_rows(&self, rows: i64) -> i64 {
        self.most_rows.fetch_max(rows, Ordering::Relaxed).max(rows)
    }

    fn oldest(&self) -> Duration {
        Duration::from_millis(self.oldest_ms.load(Ordering::Relaxed))
    }
}

impl<B: Backend> Core<B> {
    /// Puts the parts together. Nothing runs before [`start`](Self::start).
    pub(crate) fn new(pool: Pool<B>, transport: Arc<dyn Transport>, mut config: Config) -> Result<Self, Error> {
        config.batch.shutdown_timeout = config.shutdown_timeout;
        config.check()?;
        let client = Arc::new(BatchClient::new(transport, config.batch.clone())?);
        let has_fallback = config.fallback;
        let context = Arc::new(Context::new(config, B::WRITERS));
        let in_flight = Arc::new(InFlight::new(&context.config));
        let writer = Arc::new(OutcomeWriter::new(Arc::clone(&context), pool.clone(), in_flight.capacity()));
        let outcomes = Arc::new(Outcomes::new(Arc::clone(&context), Arc::clone(writer.queue())));
        let fallback = has_fallback
            .then(|| Fallback::new(Arc::clone(&context), Arc::clone(client.requests()), Arc::clone(&outcomes)));
        let signals = Arc::new(Signals::default());
        let (paused, shared) = (Paused::default(), Arc::clone(&context));
        let handoff = Arc::new(Handoff { context: shared, client, in_flight, outcomes, fallback, paused });
        let overflow = Arc::new(Overflow::new(pool.clone(), Arc::clone(&handoff), Arc::clone(&signals)));
        let inserter = Inserter::new(pool.clone(), Arc::clone(&handoff), Arc::clone(&overflow), Arc::clone(&signals));
        Ok(Core {
            context,
            pool,
            signals,
            handoff,
            inserter: Arc::new(inserter),
            background: Background::new(),
            overflow,
            writer,
            observed: Observed::default(),
            loops: TaskTracker::new(),
            writers: TaskTracker::new(),
            hearts: Heartbeats::default(),
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.context.config
    }

    /// Starts the loops; fails the second time.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), Error> {
        if !self.signals.start() {
            return Err(Error::AlreadyStarted);
        }
        describe();
        let config = self.config();
        let beat = |name: &str, interval| self.hearts.add(name, interval, config.health_grace);
        self.handoff.client.start_watched(Some(beat("publish", config.batch.publish_timeout)));
        for number in 0..self.inserter.workers() {
            let beat = beat(&format!("insert {number}"), config.database_timeout);
            self.loops.spawn(Arc::clone(&self.inserter).run_worker(beat));
        }
        // More writers than the engine can use would only wait for each other.
        for number in 0..config.delete_workers.get().min(B::INSERT_WORKERS) {
            let beat = beat(&format!("settle {number}"), config.database_timeout);
            self.writers.spawn(Arc::clone(&self.writer).run_worker(beat));
        }
        self.loops.spawn(Arc::clone(&self.overflow).run(beat("release", config.database_timeout)));
        self.loops.spawn(run_pauses(Arc::clone(self), beat("pauses", PAUSE_POLL_INTERVAL)));
        if config.retransmit {
            self.start_host();
        }
        if let Some(metrics) = config.metrics {
            self.loops.spawn(run_observer(Arc::clone(self), beat("observe", metrics.poll_interval)));
        }
        let beat = beat("publish_async", config.database_timeout);
        self.background.start(config.async_buffer.get(), Arc::clone(&self.inserter), beat);
        tracing::info!(
            engine = B::NAME,
            retransmit = config.retransmit,
            batch_size = config.batch.batch_size,
            "durable emitter started"
        );
        Ok(())
    }

    /// Starts the loops that only a host has.
    fn start_host(self: &Arc<Self>) {
        let config = self.config();
        let beat = |name: &str, interval| self.hearts.add(name, interval, config.health_grace);
        self.loops.spawn(run_retransmission(Arc::clone(self), beat("retransmit", config.retransmit_interval)));
        self.loops.spawn(run_recall(Arc::clone(self), beat("recall", RECALL_INTERVAL)));
        if config.expiry.is_some() || config.dead_letter_retention.is_some() {
            let interval = config.expiry.unwrap_or_default().interval;
            self.loops.spawn(run_expiry(Arc::clone(self), beat("expiry", interval)));
        }
        if let Some(retain) = config.retain_delivered {
            self.loops.spawn(run_purge(Arc::clone(self), beat("purge", retain.purge_interval)));
        }
    }

    /// Stops the parts in the order in which messages pass them, all within `limit`.
    pub(crate) async fn stop(&self, limit: Duration) -> StopReport {
        let limit = limit.min(LONGEST);
        let deadline = from_now(limit);
        let send_until = deadline - limit / OUTCOME_SHARE;
        // Messages in the background queue were accepted, so they are stored before the state changes.
        let mut complete = self.background.stop(send_until).await;
        let was_running = self.signals.stop();
        complete &= self.inserter.stop(send_until).await;
        self.signals.stopping.cancel();
        self.loops.close();
        complete &= timeout_at(send_until, self.loops.wait()).await.is_ok();
        complete &= self.handoff.client.stop(send_until.saturating_duration_since(Instant::now())).await.complete;
        if let Some(fallback) = &self.handoff.fallback {
            complete &= fallback.stop(send_until).await;
        }
        self.writer.finish();
        self.writers.close();
        complete &= timeout_at(deadline, self.writers.wait()).await.is_ok();
        let left = self.handoff.in_flight.left();
        if was_running {
            tracing::info!(complete, left, "durable emitter stopped");
        }
        StopReport { complete: complete && left == 0, left, ..StopReport::COMPLETE }
    }

    /// Returns a sentence for each problem of the emitter.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.hearts.problems();
        problems.extend(self.signals.problem().map(str::to_owned));
        let (config, client) = (self.config(), &self.handoff.client);
        let open_for = client.breaker_open_for();
        if open_for > config.health_grace {
            problems.push(format!("the endpoint fails: nothing was delivered for {} s", open_for.as_secs()));
        }
        if let Some(openings) = client.breaker_flaps() {
            let minutes = FLAP_WINDOW.as_secs() / 60;
            problems.push(format!("the endpoint flaps: the circuit opened {openings} times in {minutes} minutes"));
        }
        problems.extend(self.handoff.outcomes.struggling.problem());
        let oldest = self.observed.oldest();
        if let Some(expiry) = config.expiry
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
