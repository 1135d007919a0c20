//! The slow loops: expiry, purge, and observation for gauges.

use std::sync::Arc;
use std::time::Duration;

use crate::emitter::config::{Expiry, MetricsConfig, Retain};
use crate::emitter::delivery::core::Core;
use crate::emitter::metrics::instruments as names;
use crate::heartbeat::Beat;
use crate::instrument::whole;
use crate::outbox::counts::{QueueStats, observe as observe_rows};
use crate::outbox::row::micros;
use crate::store::{Backend, Longest, answered, begin_tx, hold};

/// Most rows of a shard that one statement lets expire.
const EXPIRE_PER_SHARD: i64 = 50;

/// Most dead letters that one statement deletes.
const PRUNE_ROWS: i64 = 1_000;

/// Waits for the next tick. Returns `false` when the emitter stops.
pub(crate) async fn tick<B: Backend>(core: &Core<B>, beat: &Beat, interval: Duration) -> bool {
    beat.beat();
    tokio::select! {
        () = core.signals.stopping.cancelled() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

/// Time between two searches for rows that are claimed or delayed too far ahead.
pub(crate) const RECALL_INTERVAL: Duration = Duration::from_secs(15);

/// Longest claim that is left alone. It may be that of a host with other settings, or a pause that a server asked for.
const LONGEST_CLAIM: Duration = Duration::from_secs(900);

/// Most rows of a shard that one statement recalls.
const RECALL_PER_SHARD: i64 = 100;

/// Makes rows due that are claimed or delayed too far ahead, because the database's clock went back. Runs at the start
/// and every [`RECALL_INTERVAL`].
pub(crate) async fn run_recall<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let config = core.config();
    let (pause, slow) = (config.backoff, config.slow_backoff);
    let longest = Longest {
        claim_us: micros(LONGEST_CLAIM.max(config.claim_ttl.saturating_mul(4))),
        first_pause_us: micros(pause.initial.max(slow.initial)),
        pause_us: micros(pause.max.max(slow.max)),
    };
    loop {
        let statement = answered(&core.pool, async {
            B::recall_outbox(&mut *hold(&core.pool).await?, longest, RECALL_PER_SHARD).await
        });
        match core.context.statement("recall", statement).await {
            Some(rows) if rows > 0 => {
                tracing::warn!(
                    rows,
                    "the database's clock has gone back: messages that were due far ahead are due now"
                );
                core.signals.retransmit.notify_one();
            }
            _ if !tick(&core, &beat, RECALL_INTERVAL).await => return,
            _ => {}
        }
        if core.signals.stopping.is_cancelled() {
            return;
        }
    }
}

/// Moves rows over their age to the dead letters, and deletes dead letters over theirs.
pub(crate) async fn run_expiry<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let interval = core.config().expiry.unwrap_or_default().interval;
    while tick(&core, &beat, interval).await {
        if let Some(Expiry { ttl, .. }) = core.config().expiry {
            expire(&core, &beat, ttl).await;
            // Health needs the age of the oldest row, also without gauges.
            if let Some(queue) = sample(&core, ttl, Duration::ZERO).await {
                core.observed.note_oldest(queue.oldest_pending_age);
            }
        }
        if let Some(retention) = core.config().dead_letter_retention {
            let statement = || {
                answered(&core.pool, async {
                    B::prune_dead(&mut *hold(&core.pool).await?, micros(retention), PRUNE_ROWS).await
                })
            };
            while core.context.statement("prune_dead_letters", statement()).await.is_some_and(|rows| rows > 0) {
                beat.beat();
                if core.signals.stopping.is_cancelled() {
                    return;
                }
            }
        }
    }
}

async fn expire<B: Backend>(core: &Core<B>, beat: &Beat, ttl: Duration) {
    let statement = || {
        answered(&core.pool, async {
            let mut tx = begin_tx(&core.pool, B::BEGIN_WRITE, false).await?;
            let rows = B::expire_outbox(&mut tx, micros(ttl), EXPIRE_PER_SHARD).await?;
            tx.commit().await?;
            Ok(rows)
        })
    };
    while let Some(tallies) =
        core.context.statement("delete_expired", statement()).await.filter(|tallies| !tallies.is_empty())
    {
        beat.beat();
        let rows = core.context.metrics.expired(&tallies);
        core.context.counters.expired(rows);
        tracing::info!(rows, "expired messages became dead letters");
        if core.signals.stopping.is_cancelled() {
            return;
        }
    }
}

/// Deletes delivered rows that were retained.
pub(crate) async fn run_purge<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let Retain { purge_interval, purge_batch_size } = core.config().retain_delivered.unwrap_or_default();
    let limit = i64::try_from(purge_batch_size.get()).unwrap_or(i64::MAX);
    while tick(&core, &beat, purge_interval).await {
        let statement = || answered(&core.pool, async { B::purge_outbox(&mut *hold(&core.pool).await?, limit).await });
        while core.context.statement("purge_delivered", statement()).await.is_some_and(|rows| rows > 0) {
            beat.beat();
            if core.signals.stopping.is_cancelled() {
                return;
            }
        }
    }
}

/// Sets the gauges. They keep their values after a failed observation.
pub(crate) async fn run_observer<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let metrics = core.config().metrics.unwrap_or_default();
    loop {
        beat.beat();
        observe(&core, metrics).await;
        if !tick(&core, &beat, metrics.poll_interval).await {
            return;
        }
    }
}

async fn observe<B: Backend>(core: &Core<B>, config: MetricsConfig) {
    let gauge = |name, value| core.context.metrics.gauge(name, value);
    gauge(names::INSERT_FILL, core.inserter.fill_ratio());
    let (fill, retained) = (core.writer.queue().fill_ratio(), core.config().retain_delivered.is_some());
    gauge(names::DELETE_FILL, if retained { 0.0 } else { fill });
    gauge(names::MARK_FILL, if retained { fill } else { 0.0 });
    gauge(names::BREAKER_OPEN, if core.handoff.client.breaker_open_for().is_zero() { 0.0 } else { 1.0 });
    crate::emitter::metrics::process_usage::usage().into_iter().for_each(|(name, value)| gauge(name, value));

    let ttl = core.config().expiry.map(|expiry| expiry.ttl);
    let lead =
        if ttl.is_some_and(|ttl| config.near_expiry_lead < ttl) { config.near_expiry_lead } else { Duration::ZERO };
    let Some(queue) = sample(core, ttl.unwrap_or(Duration::MAX), lead).await else { return };
    gauge(names::QUEUE_DEPTH, number(queue.total_rows));
    gauge(names::QUEUE_DEPTH_MAX, number(core.observed.note_rows(queue.total_rows)));
    gauge(names::QUEUE_PAYLOAD, number(queue.payload_bytes));
    gauge(names::QUEUE_AGE, queue.oldest_pending_age.as_secs_f64());
    if let Some(ttl) = ttl {
        let budget = micros(ttl) - micros(queue.oldest_pending_age);
        gauge(names::QUEUE_BUDGET, number(budget.div_euclid(1_000_000)));
        gauge(names::QUEUE_NEAR_TTL, number(queue.near_ttl));
    }
    if config.max_queue_payload_bytes > 0 {
        let full = usize::try_from(config.max_queue_payload_bytes).unwrap_or(usize::MAX);
        gauge(names::QUEUE_USAGE, number(queue.payload_bytes) / whole(full));
    }
    core.observed.note_oldest(queue.oldest_pending_age);
}

async fn sample<B: Backend>(core: &Core<B>, ttl: Duration, lead: Duration) -> Option<QueueStats> {
    core.context.statement("observe", observe_rows(&core.pool, ttl, lead)).await
}

#[allow(clippy::cast_precision_loss)]
fn number(value: i64) -> f64 {
    value as f64
}
