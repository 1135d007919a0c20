//! W5r: the drain of a backlog of messages, as after an outage, to a receiver that costs nothing.
//!
//! One yardstick drains the same backlog by hand, over the same client. The other one is that client alone, which is
//! the limit.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use eventbox::CloudEvent;
use eventbox::chip::{BatchClient, SendError, SendOutcome};
use eventbox::emitter::DurableEmitter;
use sqlx::Pool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::HANG_GUARD;
use super::engine::Engine;
use super::entities::message;
use super::load::{CONNECTIONS, Values};
use super::measure::{Bench, Line, Sample};
use super::outbox::{MORE_CONNECTIONS, REST, SHARDS, from_memory, start_client};
use super::parts::{Child, Part};
use super::spec::{Spec, Unit};
use super::yardstick::outbox::{OutboxKey, Shards};

/// Number of hand-written senders. Each owns shards of its own, and sends a page while the others read or delete.
const SENDERS: i16 = 4;

/// Number of messages of a page by hand.
const PAGE: i64 = 500;

/// Measures W5r.
pub(crate) async fn drained<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let spec = |variant| Spec { workload: "W5r", variant: Some(variant), units: vec![Unit::rate()] };
    let alone = async |bench: &Bench<'_, B>| from_memory(bench, bench.scale.backlog).await;
    bench.compare_two([&spec("by hand"), &spec("client alone")], ours, by_hand, alone).await
}

/// Empties the tables, and fills one outbox. Returns the number of messages.
async fn fill<B: Engine>(bench: &Bench<'_, B>, is_by_hand: bool) -> Result<usize> {
    bench.clear().await?;
    let (messages, payload) = (bench.scale.backlog, message(Values::get().any()));
    let payload = payload.map_err(|error| anyhow::anyhow!(error))?.encode();
    B::fill_outbox(&bench.admin, is_by_hand, &payload, i64::try_from(messages)?).await.context("fill the outbox")?;
    Ok(messages)
}

async fn ours<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    let messages = fill(bench, false).await?;
    let receiver = Child::start(Part::Receive, "").await?;
    let pool = bench.open(CONNECTIONS + MORE_CONNECTIONS).await?;
    let watch = bench.begin().await?;
    let emitter = DurableEmitter::builder(pool.clone(), receiver.said.as_str()).start().await?;
    ensure!(emitter.flush(HANG_GUARD).await?, "the messages were not delivered within {HANG_GUARD:?}");
    let seconds = watch.since.elapsed();
    emitter.close().await;
    let (_, cost) = bench.end(watch, messages, &[&pool]).await?;
    let received: usize = receiver.finish().await?.parse().context("read the count of the receiver")?;
    let verified = received >= messages && B::outbox_left(&bench.admin).await? == 0;
    Ok(Sample::rate(messages, (seconds.as_secs_f64(), cost), verified))
}

/// Drains the backlog by hand: senders with shards of their own, pages in the order of the keys, one transaction for a
/// page.
async fn by_hand<B: Engine>(bench: &Bench<'_, B>) -> Result<Sample> {
    let messages = fill(bench, true).await?;
    let receiver = Child::start(Part::Receive, "").await?;
    let client = Arc::new(start_client(&receiver)?);
    let pool = bench.open_yardstick(CONNECTIONS + MORE_CONNECTIONS).await?;
    let watch = bench.begin().await?;
    let (mut senders, width) = (JoinSet::new(), SHARDS / SENDERS);
    for number in 0..SENDERS {
        let (pool, client) = (pool.clone(), Arc::clone(&client));
        senders.spawn(async move { drain(&pool, &client, (number * width, (number + 1) * width - 1)).await });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let measured = bench.end(watch, messages, &[&pool]).await?;
    client.stop(HANG_GUARD).await;
    let received: usize = receiver.finish().await?.parse().context("read the count of the receiver")?;
    let verified = received >= messages && B::left_by_hand(&bench.admin).await? == 0;
    Ok(Sample::rate(messages, measured, verified))
}

/// Sends and deletes the messages of these shards, page after page.
async fn drain<B: Engine>(pool: &Pool<B>, client: &BatchClient, (first, last): Shards) -> Result<()> {
    let mut tx = eventbox::begin(pool).await?;
    let mut page = B::next_page(&mut tx, (first, Uuid::nil()), last, PAGE).await?;
    while let Some((after, _)) = page.last() {
        let (after, mut keys): (OutboxKey, Vec<OutboxKey>) = (*after, page.iter().map(|(key, _)| *key).collect());
        if B::WRITES_ALONE {
            // Other writers would wait for this transaction; a lease keeps the page.
            tx.commit().await?;
            send_page(client, page).await?;
            tx = eventbox::begin(pool).await?;
        } else {
            send_page(client, page).await?;
        }
        keys.sort_unstable();
        B::delete_page(&mut tx, &keys).await?;
        if !B::WRITES_ALONE {
            tx.commit().await?;
            tx = eventbox::begin(pool).await?;
        }
        page = B::next_page(&mut tx, after, last, PAGE).await?;
    }
    Ok(tx.commit().await?)
}

/// Sends the messages of a page, and waits until all are delivered.
async fn send_page(client: &BatchClient, page: Vec<(OutboxKey, Vec<u8>)>) -> Result<()> {
    let (sent, mut delivered) = mpsc::unbounded_channel();
    let messages = page.len();
    for (_, payload) in page {
        let event = CloudEvent::decode(&payload)?;
        loop {
            let sent = sent.clone();
            let callback = Box::new(move |outcome: SendOutcome| {
                let _ = sent.send(outcome.result.is_ok());
            });
            match client.queue(event.clone(), Some(callback)) {
                Ok(()) => break,
                Err(SendError::BufferFull) => tokio::time::sleep(REST).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
    for _ in 0..messages {
        let answer = tokio::time::timeout(HANG_GUARD, delivered.recv()).await;
        ensure!(answer.context("wait for an answer")? == Some(true), "a message was not delivered");
    }
    Ok(())
}
