//! Claims and sends due rows: of processes that ended, of plugins, and of failed attempts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::chip::client::breaker::BreakerState;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::delivery::claim_budget::ClaimBudget;
use crate::emitter::delivery::core::Core;
use crate::emitter::delivery::overflow::due_now;
use crate::emitter::metrics::{SendPhase, SourceType};
use crate::emitter::outcomes::in_flight::Admission;
use crate::heartbeat::Beat;
use crate::outbox::MAX_OUTBOX_BYTES;
use crate::outbox::row::micros;
use crate::shard::SHARDS;
use crate::store::{Backend, Claim, ClaimedRow, answered, hold};

/// Time between two checks for room in the queue, or for a breaker that has closed.
const ROOM_POLL: Duration = Duration::from_millis(5);

/// Least number of shards of a full page, so that a shard with a backlog does not delay the others.
const SHARDS_PER_PAGE: usize = 16;

/// Claims and sends rows until the emitter stops. It waits for its tick only when no row is due or there is no room.
pub(crate) async fn run_retransmission<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let interval = core.config().retransmit_interval;
    loop {
        beat.beat();
        sweep(&core, &beat).await;
        tokio::select! {
            () = core.signals.stopping.cancelled() => return,
            () = core.signals.retransmit.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Counts of a sweep.
#[derive(Default)]
struct Swept {
    enqueued: usize,
    skipped_buffer_full: usize,
    claimed: usize,
}

/// Goes through all shards until no row is due.
async fn sweep<B: Backend>(core: &Arc<Core<B>>, beat: &Beat) {
    let mut swept = Swept::default();
    let mut from_shard = 0;
    let mut budget = ClaimBudget::new(core.context.counters.answered());
    while let Some(room) = room(core, beat, &mut budget).await {
        let per_shard = room.div_ceil(SHARDS_PER_PAGE);
        let bytes = core.handoff.client.free_bytes().min(MAX_OUTBOX_BYTES);
        let claim = Claim {
            from_shard,
            per_shard: count(per_shard),
            limit: count(room),
            bytes: count(bytes),
            claim_ttl_us: micros(core.config().claim_ttl),
        };
        let claimed_until = from_now(core.config().claim_ttl);
        let statement = answered(&core.pool, async { B::claim_outbox(&mut *hold(&core.pool).await?, claim).await });
        let Some(mut rows) = core.context.statement("list_pending", statement).await else {
            core.context.metrics.retransmitted(true);
            break;
        };
        rows.sort_unstable_by_key(|row| (row.key.shard, row.key.id));
        swept.claimed += rows.len();
        let (page, last) = (rows.len(), rows.last().map(|row| row.key.shard));
        let shard_was_full = rows.chunk_by(|a, b| a.key.shard == b.key.shard).any(|rows| rows.len() >= per_shard);
        // A heavy claim may have left out the next message for its bytes.
        let was_heavy = rows.iter().map(|row| row.payload.len()).sum::<usize>() > bytes / 2;
        hand_over(core, rows, claimed_until, &mut swept).await;
        from_shard = match last {
            Some(last) if page >= room || was_heavy => (last + 1) % SHARDS.cast_signed(),
            // At the end of the shards the sweep starts again, unless this page had every due row.
            _ if from_shard > 0 || shard_was_full => 0,
            _ => break,
        };
    }
    if swept.claimed > 0 {
        tracing::info!(
            enqueued = swept.enqueued,
            skipped_buffer_full = swept.skipped_buffer_full,
            total_pending = swept.claimed,
            "sent messages again"
        );
    }
}

/// Waits for room, and returns the number of rows to claim; `None` when the sweep should end.
async fn room<B: Backend>(core: &Arc<Core<B>>, beat: &Beat, budget: &mut ClaimBudget) -> Option<usize> {
    let config = core.config();
    let (page, buffer) = (config.retransmit_batch_size.get(), config.batch.message_buffer.get());
    // A request must end within the claim. Half of the remaining time is a reserve.
    let window = config.claim_ttl.saturating_sub(config.batch.publish_timeout) / 2;
    loop {
        let least = page.min(core.handoff.client.request_size() * (config.batch.max_concurrent_sends.get() + 1));
        beat.beat();
        if core.signals.stopping.is_cancelled() {
            return None;
        }
        budget.note(core.context.counters.answered());
        let may_wait = budget.may_wait(window, least).min(buffer);
        let waiting = buffer - core.handoff.client.free();
        let free = may_wait.saturating_sub(waiting).min(core.handoff.in_flight.free()).min(page);
        let enough = page.min(may_wait / 2).max(1);
        match core.handoff.client.breaker_state() {
            BreakerState::Closed if free >= enough && core.handoff.client.free_bytes() >= MAX_OUTBOX_BYTES => {
                return Some(free);
            }
            BreakerState::Closed => {}
            // One batch is enough for the probe, and bounds the rows claimed in vain if the probe fails.
            BreakerState::HalfOpen if core.handoff.in_flight.count() == 0 => {
                return Some(free.min(config.batch.batch_size.get()).max(1));
            }
            BreakerState::HalfOpen => {}
            BreakerState::Open { remaining } if remaining > config.retransmit_interval => return None,
            BreakerState::Open { .. } => {}
        }
        tokio::select! {
            () = core.signals.stopping.cancelled() => return None,
            () = tokio::time::sleep(ROOM_POLL) => {}
        }
    }
}

/// Queues the rows of a claim. Rows that find no place are released at once, so that they stay due.
async fn hand_over<B: Backend>(core: &Arc<Core<B>>, rows: Vec<ClaimedRow>, claimed_until: Instant, swept: &mut Swept) {
    let (mut released, claimed) = (Vec::new(), rows.len());
    for row in rows {
        let key = row.key;
        let pair = SourceType::of(&row.source, &row.r#type);
        let delivery =
            match core.handoff.in_flight.admit((key, row.attempts), claimed_until, SendPhase::Retransmit, &pair) {
                Admission::Admitted(delivery) => delivery,
                // The last attempt is still in flight, and decides the outcome.
                Admission::InFlight => continue,
                Admission::Full => {
                    released.push(due_now(key, row.attempts));
                    continue;
                }
            };
        let event = match CloudEvent::decode(&row.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(id = %key.id, %error, "a row of the outbox cannot be decoded");
                core.handoff.outcomes.give_up(delivery, "UNDECODABLE", error.to_string());
                continue;
            }
        };
        match core.handoff.send(event, delivery) {
            Ok(()) => swept.enqueued += 1,
            Err(_) => released.push(due_now(key, row.attempts)),
        }
    }
    if claimed > 0 {
        core.context.metrics.retransmitted(!released.is_empty());
    }
    if !released.is_empty() {
        swept.skipped_buffer_full += released.len();
        tracing::warn!(rows = released.len(), "the queue to the sender is full: claimed messages wait");
        let statement =
            answered(&core.pool, async { B::reschedule_outbox(&mut *hold(&core.pool).await?, &released).await });
        core.context.statement("reschedule", statement).await;
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
