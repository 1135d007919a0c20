//! The workers of one process: a runtime, and the emitter that sends what its turns publish.

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

/// The most events of one turn.
const MAX_EVENTS: NonZeroU32 = match NonZeroU32::new(1_000) {
    Some(events) => events,
    None => NonZeroU32::MIN,
};

/// How long a lease holds, how often it is prolonged, and how often a process looks what it should hold. A run takes seconds, so it would wait
/// longer for a killed process than it works if the library's default of 15 s held.
const LEASE_TTL: Duration = Duration::from_secs(5);
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long stopping a runtime, and then its emitter, may take.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What a process has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// For which process its turns count, from 1.
    pub(crate) process: u32,
    /// How many processes there are.
    pub(crate) processes: u32,
    /// The most turns of aircraft at the same time.
    pub(crate) workers: u32,
    /// Where to publish to.
    pub(crate) ingress: String,
}

/// What workers have done since they started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Turns that finished, counted by their hooks.
    pub(crate) turns: u64,
    /// Events consumed.
    pub(crate) consumed: u64,
    /// How often another worker came first.
    pub(crate) contention: u64,
    /// Messages delivered.
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

    /// How many shards are worked on here.
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
    // A process that is alone shares with nobody and hears of every event itself, and one that goes on with a killed run need not wait for
    // its leases to run out.
    config.wake_ups = job.processes > 1;
    config.leases = (job.processes > 1).then(|| {
        let mut leases = LeaseConfig::default();
        leases.lease_ttl = LEASE_TTL;
        leases.renew_interval = RENEW_INTERVAL;
        leases.check_interval = CHECK_INTERVAL;
        leases
    });
    config
}
