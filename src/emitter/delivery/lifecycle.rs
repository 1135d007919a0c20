//! Start, stop and health of an emitter.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::chip::client::breaker::FLAP_WINDOW;
use crate::clock::{LONGEST, from_now};
use crate::cloudevent::CloudEvent;
use crate::emitter::delivery::release_queue::run_release;
use crate::emitter::delivery::retransmit;
use crate::emitter::delivery::upkeep::{RECALL_INTERVAL, run_expiry, run_observer, run_purge, run_recall};
use crate::emitter::emitter::Inner;
use crate::emitter::error::EmitterError;
use crate::emitter::metrics::describe;
use crate::emitter::outcomes::run_worker;
use crate::heartbeat::Beat;
use crate::room::Place;
use crate::service::StopReport;
use crate::store::Backend;

/// Asynchronous emits that are stored at the same time.
const ASYNC_CONCURRENCY: usize = 64;

/// The part of a stop's time that is kept for settling what was sent.
const SETTLE_SHARE: u32 = 5;

pub(crate) const NEW: u8 = 0;
pub(crate) const STARTED: u8 = 1;
pub(crate) const STOPPED: u8 = 2;

impl<B: Backend> Inner<B> {
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), EmitterError> {
        if self.state.compare_exchange(NEW, STARTED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(EmitterError::AlreadyStarted);
        }
        describe();
        let config = self.config();
        let beat = |name: &str, interval| self.hearts.add(name, interval, config.health_grace);
        self.client.start_watched(Some(beat("publish", config.batch.publish_timeout)));
        let workers = match config.insert_workers {
            0 => B::INSERT_WORKERS,
            workers => workers,
        };
        for number in 0..if self.inserts.is_some() { workers } else { 0 } {
            let beat = beat(&format!("insert {number}"), config.database_timeout);
            self.loops.spawn(Arc::clone(self).run_inserts(beat));
        }
        // More writers than the engine can use would only wait for each other.
        for number in 0..config.delete_workers.get().min(B::INSERT_WORKERS) {
            let beat = beat(&format!("settle {number}"), config.database_timeout);
            self.settlers.spawn(run_worker(Arc::clone(&self.settling), self.pool.clone(), self.finish.clone(), beat));
        }
        self.loops.spawn(run_release(Arc::clone(self), beat("release", config.database_timeout)));
        if config.retransmit {
            let beating = beat("retransmit", config.retransmit_interval);
            self.loops.spawn(retransmit::run_loop(Arc::clone(self), beating));
            self.loops.spawn(run_recall(Arc::clone(self), beat("recall", RECALL_INTERVAL)));
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
        let beat = beat("emit_async", config.database_timeout);
        self.asynchronous_loop.spawn(Arc::clone(self).run_asynchronous(waiting, beat));
        tracing::info!(
            engine = B::NAME,
            retransmit = config.retransmit,
            batch_size = config.batch.batch_size,
            "durable emitter started"
        );
        Ok(())
    }

    async fn run_asynchronous(self: Arc<Self>, mut waiting: mpsc::Receiver<(CloudEvent, Place)>, beat: Beat) {
        let mut running = tokio::task::JoinSet::new();
        while let Some((event, place)) = waiting.recv().await {
            if running.len() >= ASYNC_CONCURRENCY {
                let _busy = beat.busy();
                running.join_next().await;
            }
            let inner = Arc::clone(&self);
            running.spawn(async move {
                if let Err(error) = inner.emit(event).await {
                    tracing::warn!(%error, "an asynchronous emit failed");
                }
                drop(place);
            });
        }
        while running.join_next().await.is_some() {}
    }

    pub(crate) async fn stop(&self, limit: Duration) -> StopReport {
        let limit = limit.min(LONGEST);
        let deadline = from_now(limit);
        let settle_from = deadline - limit / SETTLE_SHARE;
        // What was accepted asynchronously is still emitted, so this queue ends, and what came out of it, before the state changes.
        drop(self.asynchronous.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.asynchronous_loop.close();
        let mut complete = timeout_at(settle_from, self.asynchronous_loop.wait()).await.is_ok();
        let was = self.state.swap(STOPPED, Ordering::SeqCst);
        self.emits.close();
        complete &= timeout_at(settle_from, self.emits.wait()).await.is_ok();
        if let Some(inserts) = &self.inserts {
            inserts.close();
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
        let left = self.settling.left();
        if was == STARTED {
            tracing::info!(complete, left, "durable emitter stopped");
        }
        StopReport { complete: complete && left == 0, left, ..StopReport::COMPLETE }
    }

    pub(crate) fn problems(&self) -> Vec<String> {
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
        if let Some(openings) = self.client.breaker_flaps() {
            let minutes = FLAP_WINDOW.as_secs() / 60;
            problems.push(format!("the endpoint flaps: the circuit opened {openings} times in {minutes} minutes"));
        }
        problems.extend(self.settling.struggling.problem());
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
