//! The slow loops: expiry, purge, and observation for gauges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::emitter::config::{Expiry, MetricsConfig, Retain};
use crate::emitter::emitter::Inner;
use crate::emitter::metrics::instruments as names;
use crate::emitter::outcomes::run;
use crate::heartbeat::Beat;
use crate::instrument::whole;
use crate::outbox::counts::{QueueStats, observe as observe_rows};
use crate::outbox::row::micros;
use crate::store::{Backend, Longest, answered, begin_tx, hold};

/// The most rows of a shard that one statement lets expire.
const EXPIRE_PER_SHARD: i64 = 50;

/// The most dead letters that one statement deletes.
const PRUNE_ROWS: i64 = 1_000;

/// Waits for the next tick; `false` when the emitter stops.
async fn tick<B: Backend>(inner: &Inner<B>, beat: &Beat, interval: Duration) -> bool {
    beat.beat();
    tokio::select! {
        () = inner.stopping.cancelled() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

/// Time between two searches for rows that are due too far ahead.
pub(crate) const RECALL_INTERVAL: Duration = Duration::from_secs(15);

/// A claim that lies no further ahead than this may be that of a host with other settings, or a wait that a server asked
/// for.
const LONGEST_CLAIM: Duration = Duration::from_secs(900);

/// The most rows of a shard that one statement recalls.
const RECALL_PER_SHARD: i64 = 100;

/// Makes rows due that a clock of the database claimed or put off which has gone back since: at the start, and again and
/// again.
pub(crate) async fn run_recall<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    let config = inner.config();
    let (pause, slow) = (config.backoff, config.slow_backoff);
    let longest = Longest {
        claim_us: micros(LONGEST_CLAIM.max(config.retransmit_after.saturating_mul(4))),
        first_pause_us: micros(pause.initial.max(slow.initial)),
        pause_us: micros(pause.max.max(slow.max)),
    };
    loop {
        let statement = answered(&inner.pool, async {
            B::recall_outbox(&mut *hold(&inner.pool).await?, longest, RECALL_PER_SHARD).await
        });
        match run(&inner.settling, "recall", statement).await {
            Some(rows) if rows > 0 => {
                tracing::warn!(
                    rows,
                    "the database's clock has gone back: messages that were due far ahead are due now"
                );
                inner.nudge.notify_one();
            }
            _ if !tick(&inner, &beat, RECALL_INTERVAL).await => return,
            _ => {}
        }
        if inner.stopping.is_cancelled() {
            return;
        }
    }
}

/// Moves rows that are too old to the dead letters, and deletes dead letters that are.
pub(crate) async fn run_expiry<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    let interval = inner.config().expiry.unwrap_or_default().interval;
    while tick(&inner, &beat, interval).await {
        if let Some(Expiry { ttl, .. }) = inner.config().expiry {
            expire(&inner, &beat, ttl).await;
            // The health looks at the age of the oldest row, also where no gauges are asked for.
            if let Some(queue) = sample(&inner, ttl, Duration::ZERO).await {
                inner.note_oldest(queue.oldest_pending_age);
            }
        }
        if let Some(retention) = inner.config().dead_letter_retention {
            let statement = || {
                answered(&inner.pool, async {
                    B::prune_dead(&mut *hold(&inner.pool).await?, micros(retention), PRUNE_ROWS).await
                })
            };
            while run(&inner.settling, "prune_dead_letters", statement()).await.is_some_and(|rows| rows > 0) {
                beat.beat();
                if inner.stopping.is_cancelled() {
                    return;
                }
            }
        }
    }
}

async fn expire<B: Backend>(inner: &Inner<B>, beat: &Beat, ttl: Duration) {
    let statement = || {
        answered(&inner.pool, async {
            let mut tx = begin_tx(&inner.pool, B::BEGIN_WRITE, false).await?;
            let rows = B::expire_outbox(&mut tx, micros(ttl), EXPIRE_PER_SHARD).await?;
            tx.commit().await?;
            Ok(rows)
        })
    };
    while let Some(tallies) =
        run(&inner.settling, "delete_expired", statement()).await.filter(|tallies| !tallies.is_empty())
    {
        beat.beat();
        let rows = inner.settling.metrics.expired(&tallies);
        inner.settling.counters.expired(rows);
        tracing::info!(rows, "expired messages became dead letters");
        if inner.stopping.is_cancelled() {
            return;
        }
    }
}

/// Deletes delivered rows that were kept.
pub(crate) async fn run_purge<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    let Retain { purge_interval, purge_batch_size } = inner.config().retain_delivered.unwrap_or_default();
    let limit = i64::try_from(purge_batch_size.get()).unwrap_or(i64::MAX);
    while tick(&inner, &beat, purge_interval).await {
        let statement =
            || answered(&inner.pool, async { B::purge_outbox(&mut *hold(&inner.pool).await?, limit).await });
        while run(&inner.settling, "purge_delivered", statement()).await.is_some_and(|rows| rows > 0) {
            beat.beat();
            if inner.stopping.is_cancelled() {
                return;
            }
        }
    }
}

/// Sets the gauges. After an observation that failed they keep their values.
pub(crate) async fn run_observer<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    let metrics = inner.config().metrics.unwrap_or_default();
    loop {
        beat.beat();
        observe(&inner, metrics).await;
        if !tick(&inner, &beat, metrics.poll_interval).await {
            return;
        }
    }
}

async fn observe<B: Backend>(inner: &Inner<B>, config: MetricsConfig) {
    let gauge = |name, value| inner.settling.metrics.gauge(name, value);
    gauge(
        names::INSERT_FILL,
        inner.inserts.as_ref().map_or(0.0, crate::emitter::insert::queue::InsertQueue::fill_ratio),
    );
    let (fill, retained) = (inner.settling.fill_ratio(), inner.config().retain_delivered.is_some());
    gauge(names::DELETE_FILL, if retained { 0.0 } else { fill });
    gauge(names::MARK_FILL, if retained { fill } else { 0.0 });
    gauge(names::BREAKER_OPEN, if inner.client.breaker_open_for().is_zero() { 0.0 } else { 1.0 });
    crate::emitter::metrics::process_usage::usage().into_iter().for_each(|(name, value)| gauge(name, value));

    let ttl = inner.config().expiry.map(|expiry| expiry.ttl);
    let lead =
        if ttl.is_some_and(|ttl| config.near_expiry_lead < ttl) { config.near_expiry_lead } else { Duration::ZERO };
    let Some(queue) = sample(inner, ttl.unwrap_or(Duration::MAX), lead).await else { return };
    gauge(names::QUEUE_DEPTH, number(queue.total_rows));
    gauge(
        names::QUEUE_DEPTH_MAX,
        number(inner.most_rows.fetch_max(queue.total_rows, Ordering::Relaxed).max(queue.total_rows)),
    );
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
    inner.note_oldest(queue.oldest_pending_age);
}

async fn sample<B: Backend>(inner: &Inner<B>, ttl: Duration, lead: Duration) -> Option<QueueStats> {
    run(&inner.settling, "observe", observe_rows(&inner.pool, ttl, lead)).await
}

#[allow(clippy::cast_precision_loss)]
fn number(value: i64) -> f64 {
    value as f64
}
