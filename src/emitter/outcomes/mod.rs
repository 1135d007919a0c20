//! What becomes of rows when the fate of their messages is known: deleted, tried later, or moved to the dead letters.

pub(crate) mod fallback;
pub(crate) mod row_outcome;
pub(crate) mod struggling;
pub(crate) mod unsettled;

use std::collections::HashSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::chip::client::batch::Sent;
use crate::clock::from_now;
use crate::emitter::config::Config;
use crate::emitter::metrics::stats::Counters;
use crate::emitter::metrics::{EmitterMetrics, Pair, Phase};
use crate::emitter::outcomes::row_outcome::Fate;
use crate::emitter::outcomes::struggling::Struggling;
use crate::emitter::outcomes::unsettled::Unsettled;
use crate::heartbeat::Beat;
use crate::outbox::row::micros;
use crate::store::{Backend, Burial, Fault, OutboxKey, Reschedule, answered, begin_tx, hold};

/// Rows between their hand-over to the sender and the statement that settles them. All queues behind the hand-over are as long as there
/// are places, so none can overflow.
pub(crate) struct Settling {
    pub(crate) config: Config,
    pub(crate) metrics: EmitterMetrics,
    pub(crate) counters: Counters,
    places: Arc<Semaphore>,
    place_count: usize,
    in_flight: Mutex<HashSet<OutboxKey>>,
    /// Rows that were taken and not settled.
    unsettled: Unsettled,
    pub(crate) struggling: Struggling,
    queue: mpsc::Sender<Settled>,
    waiting: AsyncMutex<mpsc::Receiver<Settled>>,
    /// Asks the workers not to wait for more.
    hurry: Notify,
    hurried: AtomicU64,
    /// Writes at the same time. More than the engine can make wait for each other here, in order, and not in the database, where they would
    /// sleep and try again.
    pub(crate) turns: Semaphore,
}

/// A row whose message is on its way. Dropping it leaves the row as it is.
pub(crate) struct Delivery {
    key: OutboxKey,
    attempts: i32,
    phase: Phase,
    pair: Pair,
    claimed_until: Instant,
    /// Whether the database knows what became of it.
    settled: bool,
    settling: Arc<Settling>,
    _place: OwnedSemaphorePermit,
}

impl Delivery {
    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    pub(crate) fn key(&self) -> OutboxKey {
        self.key
    }

    pub(crate) fn attempts(&self) -> i32 {
        self.attempts
    }

    pub(crate) fn claimed_until(&self) -> Instant {
        self.claimed_until
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.settling.unsettled.note(self.key, self.claimed_until);
        }
        self.settling.in_flight().remove(&self.key);
    }
}

struct Settled {
    delivery: Delivery,
    fate: Fate,
}

impl Settling {
    pub(crate) fn new(config: Config, metrics: EmitterMetrics, writers: usize) -> Arc<Self> {
        let batch = &config.batch;
        let sending = batch.message_buffer.get() + batch.batch_size.get() * (batch.max_concurrent_sends.get() + 1);
        let place_count = sending + (config.delete_batch_size * 200).clamp(10_000, 200_000);
        let (queue, waiting) = mpsc::channel(place_count);
        Arc::new(Settling {
            config,
            metrics,
            counters: Counters::default(),
            places: Arc::new(Semaphore::new(place_count)),
            place_count,
            in_flight: Mutex::new(HashSet::new()),
            unsettled: Unsettled::default(),
            struggling: Struggling::default(),
            queue,
            waiting: AsyncMutex::new(waiting),
            hurry: Notify::new(),
            hurried: AtomicU64::new(0),
            turns: Semaphore::new(writers.min(Semaphore::MAX_PERMITS)),
        })
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashSet<OutboxKey>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a row that is about to be sent; `None` when it is on its way already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (key, attempts): (OutboxKey, i32),
        claimed_until: Instant,
        phase: Phase,
        pair: &Pair,
    ) -> Entry {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Entry::Full };
        if !self.in_flight().insert(key) {
            return Entry::InFlight;
        }
        self.unsettled.forget(key);
        let (pair, settling) = (pair.clone(), Arc::clone(self));
        let delivery = Delivery { key, attempts, phase, pair, claimed_until, settled: false, settling, _place: place };
        Entry::Entered(delivery)
    }

    pub(crate) fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    /// Rows that are not settled yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.in_flight().len()
    }

    /// Rows that this process had taken and did not settle, while they are still its own.
    pub(crate) fn left(&self) -> usize {
        self.unsettled() + self.unsettled.count()
    }

    /// Returns the fill of the queue of outcomes, 0 to 1.
    pub(crate) fn fill_ratio(&self) -> f64 {
        crate::instrument::whole(self.place_count - self.queue.capacity()) / crate::instrument::whole(self.place_count)
    }

    /// Settles what waits without waiting for more.
    pub(crate) fn hurry(&self) {
        self.hurried.fetch_add(1, Ordering::Relaxed);
        self.hurry.notify_waiters();
    }

    /// Takes the outcome of a row. Harmless after the workers have ended: the row stays.
    pub(crate) fn settle(&self, delivery: Delivery, sent: &Sent) {
        let error = sent.result.as_ref().err();
        let hook = self.config.hooks.on_batch_publish.as_deref();
        guarded("on_batch_publish", || hook.map(|hook| hook(sent.elapsed, 1, error)));
        self.metrics.published(delivery.phase, &delivery.pair, error.is_some(), sent.elapsed);
        self.counters.sent(delivery.phase == Phase::Retransmit, error);
        if let Some(fate) = self.fate_of(error, sent.alone, delivery.attempts) {
            self.note_struggle(&delivery, &fate, error, sent.alone);
            // Full is impossible and closed means stopped: in both cases the row stays and is sent again.
            let _ = self.queue.try_send(Settled { delivery, fate });
        }
    }

    /// Gives a row that was delivered in another way, or given up without sending, its end.
    pub(crate) fn settle_as_dead(&self, delivery: Delivery, code: &str, reason: String) {
        let _ = self.queue.try_send(Settled { delivery, fate: Fate::Dead { code: code.to_owned(), reason } });
    }
}

/// Whether a row may be sent now.
pub(crate) enum Entry {
    Entered(Delivery),
    InFlight,
    Full,
}

pub(crate) fn guarded<T>(what: &'static str, hook: impl FnOnce() -> T) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        tracing::error!(hook = what, "a hook panicked");
    }
}

/// Settles rows until the token is cancelled and nothing waits any more.
pub(crate) async fn run_worker<B: Backend>(
    settling: Arc<Settling>,
    pool: Pool<B>,
    finish: CancellationToken,
    beat: Beat,
) {
    while let Some(batch) = next_batch(&settling, &finish).await {
        let _busy = beat.busy();
        settle_batch(&settling, &pool, batch).await;
    }
}

async fn next_batch(settling: &Settling, finish: &CancellationToken) -> Option<Vec<Settled>> {
    // One worker collects at a time; the others are at their statements.
    let mut waiting = settling.waiting.lock().await;
    let first = tokio::select! {
        biased;
        settled = waiting.recv() => settled?,
        () = finish.cancelled() => {
            // Closing lets a callback that comes too late do nothing; what came before it is still settled.
            waiting.close();
            waiting.recv().await?
        }
    };
    let full = settling.config.delete_batch_size.max(1);
    let mut batch = vec![first];
    let due = from_now(settling.config.delete_flush_interval);
    let hurried = settling.hurried.load(Ordering::Relaxed);
    while batch.len() < full {
        if let Ok(settled) = waiting.try_recv() {
            batch.push(settled);
            continue;
        }
        let hurry = settling.hurry.notified();
        if finish.is_cancelled() || settling.hurried.load(Ordering::Relaxed) != hurried {
            break;
        }
        tokio::select! {
            settled = waiting.recv() => match settled {
                Some(settled) => batch.push(settled),
                None => break,
            },
            () = hurry => {}
            () = finish.cancelled() => {}
            () = tokio::time::sleep_until(due) => break,
        }
    }
    Some(batch)
}

async fn settle_batch<B: Backend>(settling: &Settling, pool: &Pool<B>, mut batch: Vec<Settled>) {
    let (mut delivered, mut retries, mut burials) = (Vec::new(), Vec::new(), Vec::new());
    for settled in &batch {
        let Delivery { key, attempts, ref pair, .. } = settled.delivery;
        match &settled.fate {
            Fate::Delivered => delivered.push(key),
            Fate::Retry { code, error, delay } => {
                let delay_us = micros(*delay);
                retries.push(Reschedule { key, attempts, delay_us, code: code.clone(), error: error.clone() });
            }
            Fate::Dead { code, reason } => {
                burials.push((Burial { key, attempts, code: code.clone(), reason: reason.clone() }, pair.clone()));
            }
        }
    }
    // Statements that touch the same rows from several processes do it in the same order.
    delivered.sort_unstable();
    retries.sort_unstable_by_key(|row| row.key);
    burials.sort_unstable_by_key(|(row, _)| row.key);
    let removed = delivered.is_empty() || remove(settling, pool, &delivered).await;
    let rescheduled = retries.is_empty() || reschedule(settling, pool, &retries).await;
    let buried = burials.is_empty() || bury(settling, pool, burials).await;
    for settled in &mut batch {
        settled.delivery.settled = match settled.fate {
            Fate::Delivered => removed,
            Fate::Retry { .. } => rescheduled,
            Fate::Dead { .. } => buried,
        };
    }
}

/// Sets when rows are tried again; `false` when the statement failed.
async fn reschedule<B: Backend>(settling: &Settling, pool: &Pool<B>, retries: &[Reschedule]) -> bool {
    let statement = answered(pool, async { B::reschedule_outbox(&mut *hold(pool).await?, retries).await });
    let rescheduled = run(settling, "reschedule", statement).await;
    settling.counters.rescheduled(rescheduled.unwrap_or(0));
    rescheduled.is_some()
}

/// Removes delivered rows; `false` when the statement failed.
async fn remove<B: Backend>(settling: &Settling, pool: &Pool<B>, delivered: &[OutboxKey]) -> bool {
    let started = Instant::now();
    let operation = match (settling.config.retain_delivered.is_some(), delivered.len()) {
        (false, 1) => "delete",
        (false, _) => "batch_delete",
        (true, 1) => "mark_delivered",
        (true, _) => "mark_delivered_batch",
    };
    let statement = answered(pool, async {
        let removed = match settling.config.retain_delivered {
            None => B::delete_outbox(pool, delivered).await?,
            Some(_) => B::mark_outbox(pool, delivered).await?,
        };
        // A row that is gone may have been moved to the dead letters while its message was on the way.
        let count: u64 = removed.iter().map(|tally| tally.rows).sum();
        if usize::try_from(count).is_ok_and(|count| count < delivered.len()) {
            B::delete_dead(&mut *hold(pool).await?, delivered).await?;
        }
        Ok(removed)
    });
    let removed = run(settling, operation, statement).await;
    let hook = settling.config.hooks.on_batch_delete.as_deref();
    guarded("on_batch_delete", || hook.map(|hook| hook(started.elapsed(), delivered.len())));
    let Some(removed) = removed else { return false };
    settling.counters.delivered(settling.metrics.delivered(&removed));
    true
}

/// Moves rows to the dead letters; `false` when the statement failed.
async fn bury<B: Backend>(settling: &Settling, pool: &Pool<B>, burials: Vec<(Burial, Pair)>) -> bool {
    let (burials, pairs): (Vec<Burial>, Vec<Pair>) = burials.into_iter().unzip();
    let statement = answered(pool, async {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
        let buried = B::bury_outbox(&mut tx, &burials).await?;
        tx.commit().await?;
        Ok(buried)
    });
    let Some(buried) = run(settling, "dead_letter", statement).await else { return false };
    settling.counters.dead_lettered(u64::try_from(buried.len()).unwrap_or(u64::MAX));
    for (burial, pair) in burials.iter().zip(&pairs).filter(|(burial, _)| buried.contains(&burial.key)) {
        settling.metrics.dead_lettered(&burial.code, pair);
        let (id, code, attempts) = (burial.key.id, burial.code.as_str(), burial.attempts);
        tracing::warn!(%id, code, attempts, "a message became a dead letter");
    }
    true
}

/// Runs a statement under its deadline, counted and timed; a failure is logged, because the row stays and everything is tried again.
pub(crate) async fn run<T>(
    settling: &Settling,
    operation: &'static str,
    statement: impl Future<Output = Result<T, Fault>>,
) -> Option<T> {
    let started = Instant::now();
    let in_turn = async {
        let _turn = settling.turns.acquire().await;
        statement.await
    };
    let done = within(settling.config.database_timeout, in_turn).await;
    settling.metrics.store_operation(operation, done.is_err(), started.elapsed());
    done.inspect_err(
        |fault| tracing::warn!(operation, error = %fault.0, "a statement on the outbox failed; its rows stay"),
    )
    .ok()
}

/// The statement, or an error when it takes too long.
pub(crate) async fn within<T>(limit: Duration, statement: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(limit, statement).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the statement took longer than database_timeout");
        Err(Fault(sqlx::Error::Io(late)))
    })
}
