//! The load of all workloads: values, recipients and sending tasks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eventbox::{Event, Recipient};
use sqlx::Pool;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::engine::{BATCH, Engine, Key, Row};

/// Number of connections of a drain.
pub(crate) const CONNECTIONS: u32 = 8;

/// Maximum number of events in a hand-written transaction. The runtime uses its own default.
pub(crate) const MAX_EVENTS: i64 = 100;

/// Size of an event's value in bytes.
pub(crate) const VALUE_BYTES: usize = 200;

/// Number of tasks that send batches, if the engine has many writers.
pub(crate) const BATCHERS: usize = 8;

/// Random letters and digits, so that a value is a line too. Each value is a slice of them.
pub(crate) struct Values(Vec<u8>);

impl Values {
    /// Returns the shared values. They are created once, before any measurement.
    pub(crate) fn get() -> &'static Self {
        static VALUES: LazyLock<Values> =
            LazyLock::new(|| Values(std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(1 << 20).collect()));
        &VALUES
    }

    /// Returns one of about a million values.
    pub(crate) fn any(&self) -> &[u8] {
        let from = fastrand::usize(..=self.0.len() - VALUE_BYTES);
        self.0.get(from..from + VALUE_BYTES).unwrap_or_default()
    }
}

/// Creates `count` recipients of a kind.
pub(crate) fn keys(kind: &str, count: usize) -> Result<Arc<Vec<Key>>> {
    Ok(Arc::new((0..count).map(|number| Key::new(kind, number)).collect::<eventbox::Result<_>>()?))
}

/// Picks a random recipient.
pub(crate) fn any(keys: &[Key]) -> Result<&Key> {
    fastrand::choice(keys).context("there are no recipients")
}

/// Runs `tasks` tasks that repeat `call` for `length`, each at least once. Returns the number of calls.
pub(crate) async fn repeat<F>(
    tasks: usize,
    length: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Result<usize>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let until = Instant::now() + length;
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let call = call.clone();
        set.spawn(async move {
            let mut done = 0;
            loop {
                call().await?;
                done += 1;
                if Instant::now() >= until {
                    return anyhow::Ok(done);
                }
            }
        });
    }
    let mut done = 0;
    while let Some(ended) = set.join_next().await {
        done += ended??;
    }
    Ok(done)
}

/// Splits `0..total` into pieces of up to [`BATCH`] and lets `tasks` tasks do each piece once.
pub(crate) async fn share<F>(
    tasks: usize,
    total: usize,
    batch: usize,
    call: impl Fn(std::ops::Range<usize>) -> F + Clone + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let (call, next) = (call.clone(), Arc::clone(&next));
        set.spawn(async move {
            loop {
                let from = next.fetch_add(batch, Ordering::Relaxed);
                if from >= total {
                    return anyhow::Ok(());
                }
                call(from..total.min(from + batch)).await?;
            }
        });
    }
    while let Some(ended) = set.join_next().await {
        ended??;
    }
    Ok(())
}

/// Emits the events `0..total`, `batch` at a time. Event n goes to recipient n modulo their count.
pub(crate) async fn emit_batches<B: Engine>(
    pool: &Pool<B>,
    keys: &Arc<Vec<Key>>,
    total: usize,
    batch: usize,
    tasks: usize,
) -> Result<()> {
    let (pool, keys, values) = (pool.clone(), Arc::clone(keys), Values::get());
    share(tasks, total, batch, move |range| {
        let (pool, keys) = (pool.clone(), Arc::clone(&keys));
        async move {
            let events: Vec<(Recipient, Event)> = range
                .filter_map(|number| {
                    Some((keys.get(number % keys.len())?.to.clone(), Event::new(values.any().to_vec())))
                })
                .collect();
            Ok(B::emit_all(&pool, &events).await?)
        }
    })
    .await
}

/// Inserts the same events into the yardstick's table.
pub(crate) async fn insert_batches<B: Engine>(
    pool: &Pool<B>,
    keys: &Arc<Vec<Key>>,
    total: usize,
    batch: usize,
    tasks: usize,
) -> Result<()> {
    let (pool, keys, values) = (pool.clone(), Arc::clone(keys), Values::get());
    share(tasks, total, batch, move |range| {
        let (pool, keys) = (pool.clone(), Arc::clone(&keys));
        async move {
            let rows: Vec<Row<'_>> = range
                .filter_map(|number| {
                    let key = keys.get(number % keys.len())?;
                    Some(Row { key, id: Uuid::now_v7(), value: values.any() })
                })
                .collect();
            Ok(B::insert_many(&pool, &rows).await?)
        }
    })
    .await
}

/// Returns the number of tasks that send batches on this engine.
pub(crate) fn batchers<B: Engine>() -> usize {
    if B::WRITES_ALONE { 1 } else { BATCHERS }
}

/// Fills the eventboxes of these recipients, unmeasured.
pub(crate) async fn fill<B: Engine>(pool: &Pool<B>, keys: &Arc<Vec<Key>>, total: usize) -> Result<()> {
    B::insert_states(pool, keys).await?;
    emit_batches(pool, keys, total, BATCH, 1).await
}

/// Fills the yardstick's tables, unmeasured.
pub(crate) async fn fill_yardstick<B: Engine>(pool: &Pool<B>, keys: &Arc<Vec<Key>>, total: usize) -> Result<()> {
    B::insert_states(pool, keys).await?;
    insert_batches(pool, keys, total, BATCH, 1).await
}
