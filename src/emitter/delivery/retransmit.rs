//! Sending again what is due: rows of processes that ended, of plugins, and of attempts that failed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::chip::client::breaker::BreakerState;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::emitter::delivery::claim_budget::Pace;
use crate::emitter::emitter::Inner;
use crate::emitter::metrics::{Pair, Phase};
use crate::emitter::outcomes::{Entry, run};
use crate::heartbeat::Beat;
use crate::outbox::MAX_OUTBOX_BYTES;
use crate::outbox::row::micros;
use crate::shard::SHARDS;
use crate::store::{Backend, Claim, ClaimedRow, OutboxKey, Reschedule, answered, hold};

/// Time between two checks for room in the queue, or for a breaker that has closed.
const ROOM_POLL: Duration = Duration::from_millis(5);

/// How many shards a full page should at least be made of, so that one with a backlog does not hold up the others.
const SHARDS_PER_PAGE: usize = 16;

/// Claims and sends until the emitter stops. While pages are full and there is room, it does not wait for the tick.
pub(crate) async fn run_loop<B: Backend>(inner: Arc<Inner<B>>, beat: Beat) {
    let interval = inner.config().retransmit_interval;
    loop {
        beat.beat();
        sweep(&inner, &beat).await;
        tokio::select! {
            () = inner.stopping.cancelled() => return,
            () = inner.nudge.notified() => {}
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

/// Goes through all shards until nothing is due any more.
async fn sweep<B: Backend>(inner: &Arc<Inner<B>>, beat: &Beat) {
    let mut swept = Swept::default();
    let mut from_shard = 0;
    let mut pace = Pace::new(inner.settling.counters.answered());
    while let Some(room) = room(inner, beat, &mut pace).await {
        let per_shard = room.div_ceil(SHARDS_PER_PAGE);
        let bytes = inner.client.free_bytes().min(MAX_OUTBOX_BYTES);
        let claim = Claim {
            from_shard,
            per_shard: count(per_shard),
            limit: count(room),
            bytes: count(bytes),
            hold_us: micros(inner.config().retransmit_after),
        };
        let claimed_until = from_now(inner.config().retransmit_after);
        let statement = answered(&inner.pool, async { B::claim_outbox(&mut *hold(&inner.pool).await?, claim).await });
        let Some(mut rows) = run(&inner.settling, "list_pending", statement).await else {
            inner.settling.metrics.retransmitted(true);
            break;
        };
        rows.sort_unstable_by_key(|row| (row.key.shard, row.key.id));
        swept.claimed += rows.len();
        let (page, last) = (rows.len(), rows.last().map(|row| row.key.shard));
        let shard_was_full = rows.chunk_by(|a, b| a.key.shard == b.key.shard).any(|rows| rows.len() >= per_shard);
        // The next message of a claim that is heavy may be what did not fit into it.
        let was_heavy = rows.iter().map(|row| row.payload.len()).sum::<usize>() > bytes / 2;
        hand_over(inner, rows, claimed_until, &mut swept).await;
        from_shard = match last {
            Some(last) if page >= room || was_heavy => (last + 1) % SHARDS.cast_signed(),
            // The end of the shards; once more from the start, unless this was everything.
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
async fn room<B: Backend>(inner: &Arc<Inner<B>>, beat: &Beat, pace: &mut Pace) -> Option<usize> {
    let config = inner.config();
    let (page, buffer) = (config.retransmit_batch_size.get(), config.batch.message_buffer.get());
    // A request must end within the claim, and half of what is left for waiting is left to chance.
    let window = config.retransmit_after.saturating_sub(config.batch.publish_timeout) / 2;
    loop {
        let least = page.min(inner.client.request_size() * (config.batch.max_concurrent_sends.get() + 1));
        beat.beat();
        if inner.stopping.is_cancelled() {
            return None;
        }
        pace.note(inner.settling.counters.answered());
        let may_wait = pace.may_wait(window, least).min(buffer);
        let waiting = buffer - inner.client.free();
        let free = may_wait.saturating_sub(waiting).min(inner.settling.free_places()).min(page);
        let enough = page.min(may_wait / 2).max(1);
        match inner.client.breaker_state() {
            BreakerState::Closed if free >= enough && inner.client.free_bytes() >= MAX_OUTBOX_BYTES => {
                return Some(free);
            }
            BreakerState::Closed => {}
            // Enough for the probe, and no more than that is claimed in vain if it fails.
            BreakerState::HalfOpen if inner.settling.unsettled() == 0 => {
                return Some(free.min(config.batch.batch_size.get()).max(1));
            }
            BreakerState::HalfOpen => {}
            BreakerState::Open { remaining } if remaining > config.retransmit_interval => return None,
            BreakerState::Open { .. } => {}
        }
        tokio::select! {
            () = inner.stopping.cancelled() => return None,
            () = tokio::time::sleep(ROOM_POLL) => {}
        }
    }
}

/// Queues the rows of a claim. Those that find no place are released at once, so that they do not lose their turn.
async fn hand_over<B: Backend>(
    inner: &Arc<Inner<B>>,
    rows: Vec<ClaimedRow>,
    claimed_until: Instant,
    swept: &mut Swept,
) {
    let (mut released, claimed) = (Vec::new(), rows.len());
    for row in rows {
        let key = row.key;
        let pair = Pair::of(&row.source, &row.r#type);
        let delivery = match inner.settling.enter((key, row.attempts), claimed_until, Phase::Retransmit, &pair) {
            Entry::Entered(delivery) => delivery,
            // It was claimed while its last sending was under way; that one settles it.
            Entry::InFlight => continue,
            Entry::Full => {
                released.push(no_place(key, row.attempts));
                continue;
            }
        };
        let event = match CloudEvent::decode(&row.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(id = %key.id, %error, "a row of the outbox cannot be decoded");
                inner.settling.settle_as_dead(delivery, "UNDECODABLE", error.to_string());
                continue;
            }
        };
        match inner.send(event, delivery, Phase::Retransmit) {
            Ok(()) => swept.enqueued += 1,
            Err(_) => released.push(no_place(key, row.attempts)),
        }
    }
    if claimed > 0 {
        inner.settling.metrics.retransmitted(!released.is_empty());
    }
    if !released.is_empty() {
        swept.skipped_buffer_full += released.len();
        tracing::warn!(rows = released.len(), "the queue to the sender is full: claimed messages wait");
        let statement =
            answered(&inner.pool, async { B::reschedule_outbox(&mut *hold(&inner.pool).await?, &released).await });
        run(&inner.settling, "reschedule", statement).await;
    }
}

/// The row is due at once, because it found no place.
pub(crate) fn no_place(key: OutboxKey, attempts: i32) -> Reschedule {
    let (code, error) = ("message buffer is full".to_owned(), String::new());
    Reschedule { key, attempts, delay_us: 0, code, error }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
