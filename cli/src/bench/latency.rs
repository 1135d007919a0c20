//! W4: the latency from an emit to the commit of its turn, at a steady load, in one process and across two.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eventbox::Event;
use eventbox::runtime::{Announcer, Runtime};
use sqlx::Pool;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::HANG_GUARD;
use super::engine::{Engine, Key, Row, Sums};
use super::entities::Timed;
use super::load::{CONNECTIONS, MAX_EVENTS, Values, any, keys};
use super::measure::{Bench, Line, Sample};
use super::parts::{Child, Part};
use super::spec::{Spec, Unit};
use super::stamps::{Stamp, Stamps, now_us};

/// Number of recipients.
const RECIPIENTS: usize = 1_000;

/// Load in events a second.
const EVENTS_A_SECOND: u32 = 500;

/// Number of first events that are not counted, at most a quarter of all. Connections open and statements are planned
/// during these events.
const WARM_UP: usize = EVENTS_A_SECOND as usize;

/// Number of connections of the senders.
const SENDING_CONNECTIONS: u32 = 8;

/// Pause between two checks whether all events are handled.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The measured side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Yardstick,
}

/// Measures W4, in one process and across two.
pub(crate) async fn latency<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (across, place) in [(false, "in one process"), (true, "across two processes")] {
        let units = ["p50", "p99"].map(|percentile| Unit::low(format!("ms, {percentile}, {place}")));
        let spec = Spec { workload: "W4", variant: None, units: units.into() };
        let ours = async |bench: &Bench<'_, B>| sample(bench, Side::Ours, across).await;
        let yardstick = async |bench: &Bench<'_, B>| sample(bench, Side::Yardstick, across).await;
        lines.extend(bench.compare(&spec, ours, yardstick).await?);
    }
    Ok(lines)
}

async fn sample<B: Engine>(bench: &Bench<'_, B>, side: Side, across: bool) -> Result<Sample> {
    bench.clear().await?;
    let keys = keys("order", RECIPIENTS)?;
    B::insert_states(&bench.admin, &keys).await?;
    let sending = match side {
        Side::Ours if B::WRITES_ALONE => bench.open(SENDING_CONNECTIONS + CONNECTIONS).await?,
        Side::Ours => bench.open(SENDING_CONNECTIONS).await?,
        Side::Yardstick => bench.open_yardstick(SENDING_CONNECTIONS).await?,
    };
    let (mut stamped, measured): (Vec<Stamp>, _);
    let sent = usize::try_from(bench.scale.timed)?;
    if across {
        let part = if side == Side::Ours { Part::ConsumeOurs } else { Part::ConsumeYardstick };
        let child = Child::start(part, &format!("{} {}", B::ID, bench.place.url())).await?;
        let watch = bench.begin().await?;
        // The sender has no runtime of its own. The yardstick wakes up the other process with every event.
        let announcer = (side == Side::Ours).then(|| Announcer::start(&sending));
        send(&sending, side, &keys, bench.scale.timed).await?;
        if let Some(announcer) = announcer {
            let _ = announcer.stop(Duration::from_secs(10)).await;
        }
        until_empty(bench, side).await?;
        // The child's connections must be closed before the costs are counted.
        stamped = serde_json::from_str(&child.finish().await?).context("read the figures of the other process")?;
        measured = bench.end(watch, sent, &[&sending]).await?;
    } else {
        // With one writer, both sides share a pool, as a service would.
        let consuming = if B::WRITES_ALONE { sending.clone() } else { bench.open(CONNECTIONS).await? };
        let stamps = Arc::new(Stamps::default());
        let consumer = Consumer::start(consuming.clone(), side, Arc::clone(&stamps), true).await?;
        let watch = bench.begin().await?;
        send(&sending, side, &keys, bench.scale.timed).await?;
        until_handled(&stamps, sent).await?;
        consumer.stop().await?;
        measured = bench.end(watch, sent, &[&sending, &consuming]).await?;
        stamped = stamps.take();
    }
    let sums = sums(bench, side).await?;
    let verified = sums.are(sent) && stamped.len() == sent;
    stamped.sort_unstable();
    let mut latencies: Vec<u64> = stamped.into_iter().skip(WARM_UP.min(sent / 4)).map(|(_, latency)| latency).collect();
    latencies.sort_unstable();
    Ok(Sample {
        figures: vec![percentile_ms(&latencies, 50), percentile_ms(&latencies, 99)],
        verified,
        cost: measured.1,
    })
}

async fn sums<B: Engine>(bench: &Bench<'_, B>, side: Side) -> Result<Sums> {
    Ok(match side {
        Side::Ours => B::reducer_sums(&bench.admin).await?,
        Side::Yardstick => B::yardstick_sums(&bench.admin).await?,
    })
}

/// Sends `events` at a steady rate, also while earlier calls have not returned.
async fn send<B: Engine>(pool: &Pool<B>, side: Side, keys: &Arc<Vec<Key>>, events: u32) -> Result<()> {
    let values = Values::get();
    let mut ticks = interval(Duration::from_secs(1) / EVENTS_A_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for _ in 0..events {
        ticks.tick().await;
        let (pool, keys) = (pool.clone(), Arc::clone(keys));
        calls.spawn(async move {
            let key = any(&keys)?;
            let mut value = values.any().to_vec();
            value.splice(..8, now_us().to_be_bytes());
            match side {
                Side::Ours => B::emit(&pool, &key.to, Event::new(value)).await?,
                Side::Yardstick => B::insert_waking(&pool, Row { key, id: Uuid::now_v7(), value: &value }).await?,
            }
            anyhow::Ok(())
        });
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(())
}

async fn until_handled(stamps: &Stamps, sent: usize) -> Result<()> {
    let deadline = Instant::now() + HANG_GUARD;
    while stamps.len() < sent {
        if Instant::now() > deadline {
            bail!("{} of {sent} events were handled within {HANG_GUARD:?}", stamps.len());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn until_empty<B: Engine>(bench: &Bench<'_, B>, side: Side) -> Result<()> {
    let deadline = Instant::now() + HANG_GUARD;
    loop {
        let left = sums(bench, side).await?.left;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{left} events were not handled within {HANG_GUARD:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns the percentile of the sorted latencies in milliseconds.
pub(crate) fn percentile_ms(sorted_us: &[u64], percent: usize) -> f64 {
    let place = (sorted_us.len() * percent).div_ceil(100).saturating_sub(1);
    #[allow(clippy::cast_precision_loss, reason = "microseconds of some seconds")]
    sorted_us.get(place).map_or(0.0, |us| *us as f64 / 1e3)
}

/// The consumer of the events.
pub(crate) enum Consumer<B: Engine> {
    Ours(Runtime<B>),
    ByHand(tokio::task::JoinHandle<Result<()>>, CancellationToken),
}

impl<B: Engine> Consumer<B> {
    pub(crate) async fn start(pool: Pool<B>, side: Side, stamps: Arc<Stamps>, same_process: bool) -> Result<Self> {
        if side == Side::Ours {
            let runtime = Runtime::builder(pool).reducer("order", Timed(stamps)).start().await?;
            let deadline = Instant::now() + HANG_GUARD;
            while runtime.shards() < usize::from(eventbox::limits::SHARDS) {
                ensure!(Instant::now() < deadline, "the runtime did not have all shards within {HANG_GUARD:?}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            return Ok(Consumer::Ours(runtime));
        }
        let mut ear = B::listen(&pool, same_process).await?;
        let stopping = CancellationToken::new();
        let asked = stopping.clone();
        let task = tokio::spawn(async move {
            let mut taking = JoinSet::new();
            while let Some(woken) = asked.run_until_cancelled(B::woken(&mut ear)).await {
                for key in woken? {
                    let take = take::<B>(pool.clone(), key, Arc::clone(&stamps));
                    // With one writer, more tasks would only wait for each other and look for the same events.
                    match B::WRITES_ALONE {
                        true => take.await?,
                        false => drop(taking.spawn(take)),
                    }
                }
                while let Some(ended) = taking.try_join_next() {
                    ended??;
                }
            }
            while let Some(ended) = taking.join_next().await {
                ended??;
            }
            Ok(())
        });
        Ok(Consumer::ByHand(task, stopping))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Consumer::Ours(runtime) => {
                runtime.stop(HANG_GUARD).await;
                Ok(())
            }
            Consumer::ByHand(task, stopping) => {
                stopping.cancel();
                task.await?
            }
        }
    }
}

/// Takes the events of one recipient with hand-written SQL.
async fn take<B: Engine>(pool: Pool<B>, key: Key, stamps: Arc<Stamps>) -> Result<()> {
    let taken = B::take(&pool, &key, MAX_EVENTS).await?;
    let sent: Vec<u64> = taken.iter().filter_map(|value| Stamps::sent_at(value)).collect();
    stamps.committed(&sent);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_latencies_that_were_seen() {
        let latencies: Vec<u64> = (1..=200).map(|ms| ms * 1_000).collect();
        assert_eq!((percentile_ms(&latencies, 50), percentile_ms(&latencies, 99)), (100.0, 198.0));
        assert_eq!(percentile_ms(&[7_000], 99), 7.0);
        assert_eq!(percentile_ms(&[], 50), 0.0);
    }
}
