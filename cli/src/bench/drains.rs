//! W3, W3b and W3c: draining eventboxes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eventbox::runtime::{Runtime, RuntimeBuilder};
use sqlx::Pool;

use super::HANG_GUARD;
use super::engine::{Engine, Key, SMALL_BATCH, Sums};
use super::entities::{BatchedLedger, Counter, Ledger, Publisher};
use super::load::{self, CONNECTIONS, MAX_EVENTS, fill, fill_yardstick, keys};
use super::measure::{Bench, Line, Sample};
use super::spec::{Spec, Unit};

/// Number of producers of W3c.
const PRODUCERS: usize = 16;

/// Time after which a drain fails.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Pause between two reads of the number of consumed events.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Pause of a hand-written consumer that found no events.
const IDLE_PAUSE: Duration = Duration::from_millis(1);

/// Time for which a journaled drain keeps its journal: longer than it takes.
const JOURNAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The kind of entity that counts the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Reducer,
    Processor,
    /// A processor that loads, checks and saves many recipients in one statement.
    Batched,
    /// A reducer, with a journal of its kind.
    Journaled,
    /// A reducer that publishes a message for each event.
    Publishing,
}

impl Variant {
    /// Registers the entity for the recipients of a drain.
    pub(crate) fn on<B: Engine>(self, builder: RuntimeBuilder<B>) -> RuntimeBuilder<B> {
        match self {
            Variant::Reducer => builder.reducer("order", Counter),
            Variant::Processor => builder.processor("order", Ledger),
            Variant::Batched => builder.processor("order", BatchedLedger),
            Variant::Journaled => builder.reducer("order", Counter).journal("order", JOURNAL_KEPT),
            Variant::Publishing => builder.reducer("order", Publisher),
        }
    }

    /// Reads what the entity counted.
    pub(crate) async fn sums<B: Engine>(self, pool: &Pool<B>) -> Result<Sums> {
        let counted = match self {
            Variant::Reducer | Variant::Journaled | Variant::Publishing => B::reducer_sums(pool).await,
            Variant::Processor | Variant::Batched => B::processor_sums(pool).await,
        };
        Ok(counted?)
    }
}

/// Variants of W3b, with their names.
const PLAIN: [(Variant, &str); 3] =
    [(Variant::Reducer, "reducer"), (Variant::Processor, "processor"), (Variant::Batched, "processor, batched")];

/// Variants of W3, with their names.
const ALL: [(Variant, &str); 4] = [
    (Variant::Reducer, "reducer"),
    (Variant::Processor, "processor"),
    (Variant::Batched, "processor, batched"),
    (Variant::Journaled, "reducer, journaled"),
];

/// Measures W3: many events for each recipient.
pub(crate) async fn many<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let (events, recipients) = bench.scale.drained;
    each(bench, "W3", &ALL, events, recipients).await
}

/// Measures W3b: one event for each recipient.
pub(crate) async fn singles<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    each(bench, "W3b", &PLAIN, bench.scale.singles, bench.scale.singles).await
}

async fn each<B: Engine>(
    bench: &Bench<'_, B>,
    workload: &'static str,
    variants: &[(Variant, &'static str)],
    events: usize,
    recipients: usize,
) -> Result<Vec<Line>> {
    let keys = keys("order", recipients)?;
    let mut lines = Vec::new();
    for (variant, name) in variants.iter().copied() {
        let spec = Spec { workload, variant: Some(name), units: vec![Unit::rate()] };
        let ours = async |bench: &Bench<'_, B>| drain(bench, variant, &keys, events).await;
        let yardstick = async |bench: &Bench<'_, B>| drain_by_hand(bench, &keys, events).await;
        lines.extend(bench.compare(&spec, ours, yardstick).await?);
    }
    Ok(lines)
}

async fn drain<B: Engine>(
    bench: &Bench<'_, B>,
    variant: Variant,
    keys: &Arc<Vec<Key>>,
    events: usize,
) -> Result<Sample> {
    bench.clear().await?;
    fill(&bench.admin, keys, events).await?;
    let pool = bench.open(CONNECTIONS).await?;
    let watch = bench.begin().await?;
    until_consumed(variant.on(Runtime::builder(pool.clone())), events).await?;
    let measured = bench.end(watch, events, &[&pool]).await?;
    let sums = variant.sums(&bench.admin).await?;
    Ok(Sample::rate(events, measured, sums.are(events)))
}

/// Runs until `wanted` events are consumed. Only committed turns count, because a repeated turn decides twice.
pub(crate) async fn until_consumed<B: Engine>(builder: RuntimeBuilder<B>, events: usize) -> Result<()> {
    let runtime = builder.start().await?;
    let (wanted, deadline) = (u64::try_from(events)?, Instant::now() + DRAIN_DEADLINE);
    while runtime.stats().consumed < wanted && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let consumed = runtime.stats().consumed;
    let report = runtime.stop(HANG_GUARD).await;
    ensure!(consumed >= wanted, "{consumed} of {events} events were consumed within {DRAIN_DEADLINE:?}");
    ensure!(report.complete, "the runtime did not stop within {HANG_GUARD:?}");
    Ok(())
}

/// Drains the yardstick's table. Each visit of a recipient is one transaction.
pub(crate) async fn take_all<B: Engine>(pool: &Pool<B>, keys: &Arc<Vec<Key>>, events: usize) -> Result<()> {
    let tasks = if B::WRITES_ALONE { 1 } else { CONNECTIONS as usize };
    let visits = events.div_ceil(keys.len().max(1)).div_ceil(usize::try_from(MAX_EVENTS)?);
    let (shared, keys) = (pool.clone(), Arc::clone(keys));
    load::share(tasks, visits * keys.len(), 1, move |visit| {
        let (pool, keys) = (shared.clone(), Arc::clone(&keys));
        async move {
            if let Some(key) = keys.get(visit.start % keys.len()) {
                B::take(&pool, key, MAX_EVENTS).await?;
            }
            Ok(())
        }
    })
    .await
}

async fn drain_by_hand<B: Engine>(bench: &Bench<'_, B>, keys: &Arc<Vec<Key>>, events: usize) -> Result<Sample> {
    bench.clear().await?;
    fill_yardstick(&bench.admin, keys, events).await?;
    let pool = bench.open_yardstick(CONNECTIONS).await?;
    let watch = bench.begin().await?;
    take_all(&pool, keys, events).await?;
    let measured = bench.end(watch, events, &[&pool]).await?;
    Ok(Sample::rate(events, measured, B::yardstick_sums(&bench.admin).await?.are(events)))
}

/// Measures W3c: one recipient is drained while many producers send to it.
pub(crate) async fn hot<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = Spec { workload: "W3c", variant: None, units: vec![Unit::rate()] };
    let (events, keys) = (bench.scale.hot, keys("order", 1)?);
    let connections = CONNECTIONS + u32::try_from(PRODUCERS)?;
    let ours = async |bench: &Bench<'_, B>| {
        bench.clear().await?;
        B::insert_states(&bench.admin, &keys).await?;
        let pool = bench.open(connections).await?;
        let watch = bench.begin().await?;
        let builder = Runtime::builder(pool.clone()).reducer("order", Counter);
        let produced = load::emit_batches(&pool, &keys, events, SMALL_BATCH, PRODUCERS);
        tokio::try_join!(produced, until_consumed(builder, events))?;
        let measured = bench.end(watch, events, &[&pool]).await?;
        Ok(Sample::rate(events, measured, B::reducer_sums(&bench.admin).await?.are(events)))
    };
    let yardstick = async |bench: &Bench<'_, B>| {
        bench.clear().await?;
        B::insert_states(&bench.admin, &keys).await?;
        let pool = bench.open_yardstick(connections).await?;
        let watch = bench.begin().await?;
        let produced = load::insert_batches(&pool, &keys, events, SMALL_BATCH, PRODUCERS);
        tokio::try_join!(produced, take_hot(&pool, &keys, events))?;
        let measured = bench.end(watch, events, &[&pool]).await?;
        let sums: Sums = B::yardstick_sums(&bench.admin).await?;
        Ok(Sample::rate(events, measured, sums.are(events)))
    };
    bench.compare(&spec, ours, yardstick).await
}

/// Runs one consumer. More consumers would only wait for the lock of the row.
async fn take_hot<B: Engine>(pool: &Pool<B>, keys: &[Key], events: usize) -> Result<()> {
    let key = load::any(keys)?;
    let mut left = events;
    while left > 0 {
        match B::take(pool, key, MAX_EVENTS).await?.len() {
            0 => tokio::time::sleep(IDLE_PAUSE).await,
            taken => left = left.saturating_sub(taken),
        }
    }
    Ok(())
}
