//! Writes outcomes into the outbox: deletes, reschedules and dead letters, many rows in one statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Pool;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::from_now;
use crate::emitter::context::{Context, guarded};
use crate::emitter::metrics::SourceType;
use crate::emitter::outcomes::RowOutcome;
use crate::emitter::outcomes::in_flight::Delivery;
use crate::heartbeat::Beat;
use crate::instrument::whole;
use crate::outbox::row::micros;
use crate::store::{Backend, OutboxKey, Reschedule, ToDeadLetter, answered, begin_tx, hold};

/// Writes outcomes, from a queue that any number of workers share.
pub(crate) struct OutcomeWriter<B: Backend> {
    context: Arc<Context>,
    pool: Pool<B>,
    queue: Arc<OutcomeQueue>,
    waiting: Mutex<mpsc::Receiver<Undone>>,
    finish: CancellationToken,
}

/// The entrance to the queue of outcomes.
pub(crate) struct OutcomeQueue {
    sender: mpsc::Sender<Undone>,
    /// Asks the workers to write at once, without waiting for more outcomes.
    hurry: Notify,
    hurried: AtomicU64,
}

/// An outcome that is not written yet.
struct Undone {
    delivery: Delivery,
    outcome: RowOutcome,
}

impl OutcomeQueue {
    /// Queues an outcome. After the workers have ended this does nothing, and the row stays.
    pub(crate) fn push(&self, delivery: Delivery, outcome: RowOutcome) {
        // The queue has a place for every row in flight, so it is never full.
        let _ = self.sender.try_send(Undone { delivery, outcome });
    }

    /// Makes the workers write what waits, without waiting for more.
    pub(crate) fn hurry(&self) {
        self.hurried.fetch_add(1, Ordering::Relaxed);
        self.hurry.notify_waiters();
    }

    /// Returns the fill of the queue, 0 to 1.
    pub(crate) fn fill_ratio(&self) -> f64 {
        let capacity = self.sender.max_capacity();
        whole(capacity - self.sender.capacity()) / whole(capacity)
    }
}

impl<B: Backend> OutcomeWriter<B> {
    /// Makes a writer whose queue has `capacity` places.
    pub(crate) fn new(context: Arc<Context>, pool: Pool<B>, capacity: usize) -> Self {
        let (sender, waiting) = mpsc::channel(capacity);
        let queue = Arc::new(OutcomeQueue { sender, hurry: Notify::new(), hurried: AtomicU64::new(0) });
        OutcomeWriter { context, pool, queue, waiting: Mutex::new(waiting), finish: CancellationToken::new() }
    }

    pub(crate) fn queue(&self) -> &Arc<OutcomeQueue> {
        &self.queue
    }

    /// Lets the workers end as soon as the queue is empty.
    pub(crate) fn finish(&self) {
        self.finish.cancel();
        self.queue.hurry();
    }

    /// Writes outcomes until [`finish`](Self::finish) was called and the queue is empty.
    pub(crate) async fn run_worker(self: Arc<Self>, beat: Beat) {
        while let Some(batch) = self.next_batch().await {
            let _busy = beat.busy();
            self.write(batch).await;
        }
    }

    async fn next_batch(&self) -> Option<Vec<Undone>> {
        // One worker collects at a time; the others run their statements.
        let mut waiting = self.waiting.lock().await;
        let first = tokio::select! {
            biased;
            undone = waiting.recv() => undone?,
            () = self.finish.cancelled() => {
                // A callback that comes later does nothing; outcomes that came before are still written.
                waiting.close();
                waiting.recv().await?
            }
        };
        let full = self.context.config.delete_batch_size.max(1);
        let mut batch = vec![first];
        let due = from_now(self.context.config.delete_flush_interval);
        let hurried = self.queue.hurried.load(Ordering::Relaxed);
        while batch.len() < full {
            if let Ok(undone) = waiting.try_recv() {
                batch.push(undone);
                continue;
            }
            let hurry = self.queue.hurry.notified();
            if self.finish.is_cancelled() || self.queue.hurried.load(Ordering::Relaxed) != hurried {
                break;
            }
            tokio::select! {
                undone = waiting.recv() => match undone {
                    Some(undone) => batch.push(undone),
                    None => break,
                },
                () = hurry => {}
                () = self.finish.cancelled() => {}
                () = tokio::time::sleep_until(due) => break,
            }
        }
        Some(batch)
    }

    async fn write(&self, mut batch: Vec<Undone>) {
        let (mut delivered, mut retries, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        let mut pairs: Vec<(SourceType, u64)> = Vec::new();
        for Undone { delivery, outcome } in &batch {
            let Delivery { key, attempts, ref pair, .. } = *delivery;
            match outcome {
                RowOutcome::Delivered => {
                    delivered.push(key);
                    match pairs.iter_mut().find(|(known, _)| known == pair) {
                        Some((_, rows)) => *rows += 1,
                        None => pairs.push((pair.clone(), 1)),
                    }
                }
                RowOutcome::Retry { code, error, delay } => {
                    let delay_us = micros(*delay);
                    retries.push(Reschedule { key, attempts, delay_us, code: code.clone(), error: error.clone() });
                }
                RowOutcome::Dead { code, reason } => {
                    dead.push((
                        ToDeadLetter { key, attempts, code: code.clone(), reason: reason.clone() },
                        pair.clone(),
                    ));
                }
            }
        }
        // Statements of several processes on the same rows take them in the same order.
        delivered.sort_unstable();
        retries.sort_unstable_by_key(|row| row.key);
        dead.sort_unstable_by_key(|(row, _)| row.key);
        let removed = delivered.is_empty() || self.remove(&delivered, &pairs).await;
        let rescheduled = retries.is_empty() || self.reschedule(&retries).await;
        let moved = dead.is_empty() || self.move_to_dead_letters(dead).await;
        for undone in &mut batch {
            undone.delivery.written = match undone.outcome {
                RowOutcome::Delivered => removed,
                RowOutcome::Retry { .. } => rescheduled,
                RowOutcome::Dead { .. } => moved,
            };
        }
    }

    /// Sets the times of the next attempts. Returns whether the statement succeeded.
    async fn reschedule(&self, retries: &[Reschedule]) -> bool {
        let pool = &self.pool;
        let statement = answered(pool, async { B::reschedule_outbox(&mut *hold(pool).await?, retries).await });
        let rescheduled = self.context.statement("reschedule", statement).await;
        self.context.counters.rescheduled(rescheduled.unwrap_or(0));
        rescheduled.is_some()
    }

    /// Deletes delivered rows, or marks them. Returns whether the statement succeeded.
    async fn remove(&self, delivered: &[OutboxKey], pairs: &[(SourceType, u64)]) -> bool {
        let (context, pool, started) = (&self.context, &self.pool, Instant::now());
        let retain = context.config.retain_delivered.is_some();
        let operation = match (retain, delivered.len()) {
            (false, 1) => "delete",
            (false, _) => "batch_delete",
            (true, 1) => "mark_delivered",
            (true, _) => "mark_delivered_batch",
        };
        let statement = answered(pool, async {
            let removed = match retain {
                false => B::delete_outbox(pool, delivered).await?,
                true => B::mark_outbox(pool, delivered).await?,
            };
            // A missing row may have become a dead letter while its message was in flight.
            if usize::try_from(removed).is_ok_and(|removed| removed < delivered.len()) {
                B::delete_dead(&mut *hold(pool).await?, delivered).await?;
            }
            Ok(removed)
        });
        let removed = context.statement(operation, statement).await;
        let hook = context.config.hooks.on_batch_delete.as_deref();
        guarded("on_batch_delete", || hook.map(|hook| hook(started.elapsed(), delivered.len())));
        let Some(removed) = removed else { return false };
        context.metrics.delivered(pairs, removed);
        context.counters.delivered(removed);
        true
    }

    /// Moves rows to the dead letters. Returns whether the statement succeeded.
    async fn move_to_dead_letters(&self, dead: Vec<(ToDeadLetter, SourceType)>) -> bool {
        let pool = &self.pool;
        let (rows, pairs): (Vec<ToDeadLetter>, Vec<SourceType>) = dead.into_iter().unzip();
        let statement = answered(pool, async {
            let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
            let moved = B::move_to_dead_letters(&mut tx, &rows).await?;
            tx.commit().await?;
            Ok(moved)
        });
        let Some(moved) = self.context.statement("dead_letter", statement).await else { return false };
        self.context.counters.dead_lettered(u64::try_from(moved.len()).unwrap_or(u64::MAX));
        for (row, pair) in rows.iter().zip(&pairs).filter(|(row, _)| moved.contains(&row.key)) {
            self.context.metrics.dead_lettered(&row.code, pair);
            let (id, code, attempts) = (row.key.id, row.code.as_str(), row.attempts);
            tracing::warn!(%id, code, attempts, "a message became a dead letter");
        }
        true
    }
}
