//! W5: turns that publish, measured until the receiver has the message and the row is deleted.
//!
//! One yardstick does the same durable work by hand, over the same client. The other one is that client alone, which is
//! the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use eventbox::CloudEvent;
use eventbox::chip::{BatchClient, BatchConfig, GrpcConfig, GrpcTransport, SendError, SendOutcome};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::Runtime;
use sqlx::Pool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::HANG_GUARD;
use super::drains::until_consumed;
use super::engine::{BATCH, Engine};
use super::entities::{Publisher, message};
use super::load::{self, CONNECTIONS, Values, keys};
use super::measure::{Bench, Line, Sample};
use super::parts::{Child, Part};
use super::spec::{Spec, Unit};
use super::yardstick::outbox::{Message, OutboxKey, Shards};

/// Number of recipients.
const RECIPIENTS: usize = 1_000;

/// Number of connections for the emits and the emitter, in addition to those of the runtime.
pub(crate) const MORE_CONNECTIONS: u32 = 8;

/// Pause while the batch client's queue is full or all messages are in flight.
pub(crate) const REST: Duration = Duration::from_millis(1);

/// Most events of a transaction by hand, and most rows of a delete by hand.
const BATCH_BY_HAND: usize = 500;

/// Number of shards.
pub(crate) const SHARDS: i16 = 256;

/// Measures W5.
pub(crate) async fn published<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = |variant| Spec { workload: "W5", variant: Some(variant), units: vec![Unit::rate()] };
    let alone = async |bench: &Bench<'_, B>| from_memory(bench, bench.scale.published).await;
    bench.compare_two([&spec("by hand"), &spec("client alone")], ours, by_hand, alone).await
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

/// Does the same durable work by hand: consumers with shards of their own, large transactions, messages sent from
/// memory, and deletes in batches.
async fn by_hand<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    bench.clear().await?;
    let (events, keys) = (bench.scale.published, keys("order", RECIPIENTS)?);
    B::insert_states(&bench.admin, &keys).await?;
    let receiver = Child::start(Part::Receive, "").await?;
    let client = Arc::new(start_client(&receiver)?);
    let pool = bench.open_yardstick(CONNECTIONS + MORE_CONNECTIONS).await?;
    let watch = bench.begin().await?;
    let (sent, delivered) = mpsc::unbounded_channel();
    let emitted = load::insert_batches(&pool, &keys, events, BATCH, 1);
    let deleted = delete_all(&pool, delivered, events);
    tokio::try_join!(emitted, consume_all(&pool, &client, sent, events), deleted)?;
    let measured = bench.end(watch, events, &[&pool]).await?;
    client.stop(HANG_GUARD).await;
    let received: usize = receiver.finish().await?.parse().context("read the count of the receiver")?;
    let sums = B::yardstick_sums(&bench.admin).await?;
    let verified = sums.are(events) && received >= events && B::left_by_hand(&bench.admin).await? == 0;
    Ok(Sample::rate(events, measured, verified))
}

pub(crate) fn start_client(receiver: &Child) -> Result<BatchClient> {
    let transport = Arc::new(GrpcTransport::new(&GrpcConfig::new(receiver.said.as_str()))?);
    let client = BatchClient::new(transport, BatchConfig::durable())?;
    client.start();
    Ok(client)
}

/// Runs the hand-written consumers until they have consumed all events together.
async fn consume_all<B: Engine>(
    pool: &Pool<B>,
    client: &Arc<BatchClient>,
    sent: mpsc::UnboundedSender<OutboxKey>,
    events: usize,
) -> Result<()> {
    let tasks = if B::WRITES_ALONE { 1 } else { i16::try_from(CONNECTIONS)? };
    let (consumed, width) = (Arc::new(AtomicUsize::new(0)), SHARDS / tasks);
    let mut consumers = JoinSet::new();
    for number in 0..tasks {
        let (pool, client, sent, consumed) = (pool.clone(), Arc::clone(client), sent.clone(), Arc::clone(&consumed));
        let shards = (number * width, (number + 1) * width - 1);
        consumers.spawn(async move {
            while consumed.load(Ordering::Relaxed) < events {
                let messages = consume(&pool, shards).await?;
                consumed.fetch_add(messages.len(), Ordering::Relaxed);
                if messages.is_empty() {
                    tokio::time::sleep(REST).await;
                }
                for message in messages {
                    send(&client, message, &sent).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = consumers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Consumes events of these shards, and stores their messages in the same transaction.
async fn consume<B: Engine>(pool: &Pool<B>, shards: Shards) -> Result<Vec<Message>> {
    let mut tx = eventbox::begin(pool).await?;
    let values = B::take_between(&mut tx, shards, i64::try_from(BATCH_BY_HAND)?).await?;
    let shard = fastrand::i16(0..SHARDS);
    let new = |value: &Vec<u8>| anyhow::Ok(Message::new(shard, message(value).map_err(|error| anyhow!(error))?));
    let messages = values.iter().map(new).collect::<Result<Vec<_>>>()?;
    if !messages.is_empty() {
        B::lay_out(&mut tx, &messages).await?;
    }
    tx.commit().await?;
    Ok(messages)
}

/// Queues a message, and waits while the queue is full. A delivered message reports its row.
async fn send(client: &BatchClient, message: Message, sent: &mpsc::UnboundedSender<OutboxKey>) -> Result<()> {
    loop {
        let (sent, key) = (sent.clone(), message.key);
        let callback = Box::new(move |outcome: SendOutcome| {
            // A message that is not delivered stays in the outbox, so the run fails.
            if outcome.result.is_ok() {
                let _ = sent.send(key);
            }
        });
        match client.queue(CloudEvent::clone(&message.event), Some(callback)) {
            Ok(()) => return Ok(()),
            Err(SendError::BufferFull) => tokio::time::sleep(REST).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Deletes the rows of delivered messages until all are gone.
async fn delete_all<B: Engine>(
    pool: &Pool<B>,
    mut delivered: mpsc::UnboundedReceiver<OutboxKey>,
    events: usize,
) -> Result<()> {
    let mut deleted = 0;
    while deleted < events {
        let mut keys = Vec::with_capacity(BATCH_BY_HAND);
        let count = tokio::time::timeout(HANG_GUARD, delivered.recv_many(&mut keys, BATCH_BY_HAND)).await;
        ensure!(count.context("wait for the next delivered message")? > 0, "a message was not delivered");
        keys.sort_unstable();
        B::delete_sent(pool, &keys).await?;
        deleted += keys.len();
    }
    Ok(())
}

/// Measures the batch client alone, with the emitter's settings.
pub(crate) async fn from_memory<B: Engine>(bench: &Bench<'_, B>, events: usize) -> Result<Sample> {
    let values = Values::get();
    let receiver = Child::start(Part::Receive, "").await?;
    let client = start_client(&receiver)?;
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
