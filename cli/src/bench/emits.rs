//! W1 and W2: emits.

use std::sync::Arc;

use anyhow::Result;
use eventbox::{Event, Sender};
use uuid::Uuid;

use super::HANG_GUARD;
use super::engine::{BATCH, Engine, Row};
use super::load::{self, Values, any, batchers, keys};
use super::measure::{Bench, Line, Sample};
use super::spec::{Spec, Unit};

/// Number of recipients.
const RECIPIENTS: usize = 1_000;

/// Number of connections of W1.
const CONNECTIONS: u32 = 16;

/// Number of tasks that emit directly, and through a `Sender`.
const TASKS: usize = 16;
const SENDER_TASKS: usize = 256;

/// Measures W1: single events. Each call returns after its own commit.
pub(crate) async fn single<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = |variant| Spec { workload: "W1", variant: Some(variant), units: vec![Unit::rate()] };
    let mut lines = bench.compare(&spec("plain"), plain, async |bench| inserts(bench, TASKS).await).await?;
    lines.extend(
        bench.compare(&spec("sender"), through_a_sender, async |bench| inserts(bench, SENDER_TASKS).await).await?,
    );
    Ok(lines)
}

async fn plain<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let (pool, keys, values) = (bench.open(CONNECTIONS).await?, keys("order", RECIPIENTS)?, Values::get());
    let watch = bench.begin().await?;
    let shared = pool.clone();
    let emitted = load::repeat(TASKS, bench.scale.emit_for, move || {
        let (pool, keys) = (shared.clone(), Arc::clone(&keys));
        async move { Ok(B::emit(&pool, &any(&keys)?.to, Event::new(values.any().to_vec())).await?) }
    });
    let emitted = emitted.await?;
    let measured = bench.end(watch, emitted, &[&pool]).await?;
    let left = B::reducer_sums(&bench.admin).await?.left;
    Ok(Sample::rate(emitted, measured, usize::try_from(left) == Ok(emitted)))
}

async fn through_a_sender<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let (pool, keys, values) = (bench.open(CONNECTIONS).await?, keys("order", RECIPIENTS)?, Values::get());
    let sender = Sender::new(pool.clone());
    let watch = bench.begin().await?;
    let shared = sender.clone();
    let emitted = load::repeat(SENDER_TASKS, bench.scale.emit_for, move || {
        let (sender, keys) = (shared.clone(), Arc::clone(&keys));
        async move {
            sender.emit(&any(&keys)?.to, Event::new(values.any().to_vec())).await?;
            Ok(())
        }
    });
    let emitted = emitted.await?;
    sender.stop(HANG_GUARD).await;
    let measured = bench.end(watch, emitted, &[&pool]).await?;
    let left = B::reducer_sums(&bench.admin).await?.left;
    Ok(Sample::rate(emitted, measured, usize::try_from(left) == Ok(emitted)))
}

async fn inserts<B: Engine>(bench: &Bench<'_, B>, tasks: usize) -> Result<Sample> {
    bench.clear().await?;
    let (pool, keys, values) = (bench.open_yardstick(CONNECTIONS).await?, keys("order", RECIPIENTS)?, Values::get());
    let watch = bench.begin().await?;
    let shared = pool.clone();
    let inserted = load::repeat(tasks, bench.scale.emit_for, move || {
        let (pool, keys) = (shared.clone(), Arc::clone(&keys));
        async move { Ok(B::insert(&pool, Row { key: any(&keys)?, id: Uuid::now_v7(), value: values.any() }).await?) }
    });
    let inserted = inserted.await?;
    let measured = bench.end(watch, inserted, &[&pool]).await?;
    let left = B::yardstick_sums(&bench.admin).await?.left;
    Ok(Sample::rate(inserted, measured, usize::try_from(left) == Ok(inserted)))
}

/// Measures W2: batches of 500 events.
pub(crate) async fn batches<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = Spec { workload: "W2", variant: None, units: vec![Unit::rate()] };
    let (events, tasks) = (bench.scale.batched, batchers::<B>());
    let connections = u32::try_from(tasks)?;
    let keys = keys("order", RECIPIENTS)?;
    let ours = async |bench: &Bench<'_, B>| {
        bench.clear().await?;
        let pool = bench.open(connections).await?;
        let watch = bench.begin().await?;
        load::emit_batches(&pool, &keys, events, BATCH, tasks).await?;
        let measured = bench.end(watch, events, &[&pool]).await?;
        let left = B::reducer_sums(&bench.admin).await?.left;
        Ok(Sample::rate(events, measured, usize::try_from(left) == Ok(events)))
    };
    let yardstick = async |bench: &Bench<'_, B>| {
        bench.clear().await?;
        let pool = bench.open_yardstick(connections).await?;
        let watch = bench.begin().await?;
        load::insert_batches(&pool, &keys, events, BATCH, tasks).await?;
        let measured = bench.end(watch, events, &[&pool]).await?;
        let left = B::yardstick_sums(&bench.admin).await?.left;
        Ok(Sample::rate(events, measured, usize::try_from(left) == Ok(events)))
    };
    bench.compare(&spec, ours, yardstick).await
}
