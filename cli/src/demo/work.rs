//! The workers of one process: a runtime, and the emitter that delivers the messages of its turns.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use super::processors::{Aircraft, Airport};
use super::tables::DemoTables;

/// Maximum number of events of one turn.
const MAX_EVENTS: NonZeroU32 = match NonZeroU32::new(1_000) {
    Some(events) => events,
    None => NonZeroU32::MIN,
};

/// Times of a lease: its length, its renewal and the check of the assignment. They are shorter than the library's
/// defaults: with a lease of 15 s a run would wait longer for a killed process than it works.
const LEASE_TTL: Duration = Duration::from_secs(5);
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Time for which the journal stays: longer than any run, which audits it at its end.
const JOURNAL_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Time limit of the stop of a runtime, and of its emitter.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The job of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Number of the process, from 1.
    pub(crate) process: u32,
    /// Number of processes.
    pub(crate) processes: u32,
    /// Maximum number of concurrent turns of aircraft.
    pub(crate) workers: u32,
    /// Address to publish to.
    pub(crate) ingress: String,
}

/// The work since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Finished turns, counted by their hooks.
    pub(crate) turns: u64,
    /// Consumed events.
    pub(crate) consumed: u64,
    /// Turns that lost the race to another worker.
    pub(crate) contention: u64,
    /// Delivered messages.
    pub(crate) delivered: u64,
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            turns: self.turns + other.turns,
            consumed: self.consumed + other.consumed,
            contention: self.contention + other.contention,
            delivered: self.delivered + other.delivered,
        }
    }
}

/// The workers of this process.
pub(crate) struct Workers<B: DemoTables> {
    runtime: Runtime<B>,
    emitter: DurableEmitter<B>,
    finished: Arc<AtomicU64>,
}

impl<B: DemoTables> Workers<B> {
    pub(crate) async fn start(pool: &Pool<B>, job: &Job) -> Result<Self> {
        let emitter = DurableEmitter::builder(pool.clone(), job.ingress.as_str()).build();
        let emitter =
            emitter.with_context(|| format!("cannot publish to {:?}: give --ingress HOST:PORT", job.ingress))?;
        emitter.start().await.context("start the emitter")?;
        let finished = Arc::new(AtomicU64::new(0));
        let runtime = Runtime::builder(pool.clone())
            .processor("aircraft", Aircraft { process: job.process, finished: Arc::clone(&finished) })
            .reducer("airport", Airport { finished: Arc::clone(&finished) })
            .journal("aircraft", JOURNAL_KEPT)
            .journal("airport", JOURNAL_KEPT)
            .emitter(emitter.clone())
            .config(config(job))
            .start()
            .await
            .context("start the workers")?;
        Ok(Workers { runtime, emitter, finished })
    }

    pub(crate) fn tally(&self) -> Tally {
        let stats = self.runtime.stats();
        Tally {
            turns: self.finished.load(Ordering::Relaxed),
            consumed: stats.consumed,
            contention: stats.contention,
            delivered: self.emitter.stats().delivered,
        }
    }

    /// Returns the number of shards that this process works on.
    pub(crate) fn shards(&self) -> usize {
        self.runtime.shards()
    }

    pub(crate) async fn stop(&self) {
        self.runtime.stop(STOP_DEADLINE).await;
        self.emitter.stop(STOP_DEADLINE).await;
    }
}

fn config(job: &Job) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.max_events = MAX_EVENTS;
    config.workers = usize::try_from(job.workers).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    // A single process shares with no other process and needs no wake-ups. A resumed single process need not wait
    // until old leases end.
    config.remote_wake_ups = job.processes > 1;
    config.leases = (job.processes > 1).then(|| {
        let mut leases = LeaseConfig::default();
        leases.lease_ttl = LEASE_TTL;
        leases.renew_interval = RENEW_INTERVAL;
        leases.check_interval = CHECK_INTERVAL;
        leases
    });
    config
}
