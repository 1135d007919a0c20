//! W5: turns that publish, measured until the receiver has the message and the row is deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use eventbox::chip::{BatchClient, BatchConfig, GrpcConfig, GrpcTransport, SendError, SendOutcome};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::Runtime;

use super::HANG_GUARD;
use super::drains::until_consumed;
use super::engine::{BATCH, Engine};
use super::entities::{Publisher, message};
use super::load::{self, CONNECTIONS, Values, keys};
use super::measure::{Bench, Line, Sample};
use super::parts::{Child, Part};
use super::spec::{Spec, Unit};

/// Number of recipients.
const RECIPIENTS: usize = 1_000;

/// Number of connections for the emits and the emitter, in addition to those of the runtime.
const MORE_CONNECTIONS: u32 = 8;

/// Pause while the batch client's queue is full or all messages are in flight.
const REST: Duration = Duration::from_millis(1);

/// Measures W5.
pub(crate) async fn published<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = Spec { workload: "W5", variant: None, units: vec![Unit::rate()] };
    bench.compare(&spec, ours, from_memory).await
}

async fn ours<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let (events, keys) = (bench.scale.published, keys("order", RECIPIENTS)?);
    B::insert_states(&bench.admin, &keys).await?;
    let receiver = Child::start(Part::Receive, "").await?;
    let pool = bench.open(CONNECTIONS + MORE_CONNECTIONS).await?;
    let emitter = DurableEmitter::builder(pool.clone(), receiver.said.as_str()).start().await?;
    let watch = bench.begin().await?;
    let builder = Runtime::builder(pool.clone()).reducer("order", Publisher);
    let builder = builder.emitter(emitter.clone());
    let emitted = load::emit_batches(&pool, &keys, events, BATCH, 1);
    tokio::try_join!(emitted, until_consumed(builder, events))?;
    ensure!(emitter.flush(HANG_GUARD).await?, "the messages were not delivered within {HANG_GUARD:?}");
    let seconds = watch.since.elapsed();
    emitter.close().await;
    let (_, cost) = bench.end(watch, events, &[&pool]).await?;
    let received: usize = receiver.finish().await?.parse().context("read the count of the receiver")?;
    let sums = B::reducer_sums(&bench.admin).await?;
    let verified = sums.are(events) && received >= events && B::outbox_left(&bench.admin).await? == 0;
    Ok(Sample::rate(events, (seconds.as_secs_f64(), cost), verified))
}

/// Measures the batch client alone, with the emitter's settings.
async fn from_memory<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    let (events, values) = (bench.scale.published, Values::get());
    let receiver = Child::start(Part::Receive, "").await?;
    let transport = Arc::new(GrpcTransport::new(&GrpcConfig::new(receiver.said.as_str()))?);
    let client = BatchClient::new(transport, BatchConfig::durable())?;
    client.start();
    let (delivered, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let watch = bench.begin().await?;
    let mut queued = 0;
    while delivered.load(Ordering::Relaxed) < events {
        ensure!(watch.since.elapsed() < HANG_GUARD, "the messages were not delivered within {HANG_GUARD:?}");
        // Failed messages are sent again, as every sender without an outbox must.
        let wanted = events + failed.load(Ordering::Relaxed);
        if queued == wanted {
            tokio::time::sleep(REST).await;
            continue;
        }
        let (delivered, failed) = (Arc::clone(&delivered), Arc::clone(&failed));
        let callback = Box::new(move |sent: SendOutcome| {
            let outcome = if sent.result.is_ok() { delivered } else { failed };
            outcome.fetch_add(1, Ordering::Relaxed);
        });
        match client.queue(message(values.any()).map_err(|error| anyhow!(error))?, Some(callback)) {
            Ok(()) => queued += 1,
            Err(SendError::BufferFull) => tokio::time::sleep(REST).await,
            Err(error) => return Err(error.into()),
        }
    }
    let measured = bench.end(watch, events, &[]).await?;
    client.stop(HANG_GUARD).await;
    let received: usize = receiver.finish().await?.parse().context("read the count of the receiver")?;
    // A message that was sent again may have arrived twice.
    let verified = received >= events && delivered.load(Ordering::Relaxed) == events;
    Ok(Sample::rate(events, measured, verified))
}
