//! Waiting for the end: nothing left in the boxes, then nothing left in the outbox.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::Pool;
use tokio::time::{Instant, sleep};

use super::bars::LOOK_EVERY;
use super::tables::{DemoTables, Leftovers};
use super::work::Tally;

/// How long may pass without anything being processed.
const STALL_LIMIT: Duration = Duration::from_secs(120);

/// How long the database may be unavailable.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

/// How long delivering the rest may take: longer than a killed process can hold the messages that it was about to send.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Waits until everything that was sent is processed and delivered. What could not be delivered in time is told by the comparison.
pub(crate) async fn until_done<B: DemoTables>(pool: &Pool<B>, tally: impl Fn() -> Tally) -> Result<()> {
    let (mut seen, mut moved) = ((0, 0), Instant::now());
    loop {
        let events = leftovers(pool).await?.events;
        if events == 0 {
            break;
        }
        let now = (events, tally().consumed);
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        ensure!(
            moved.elapsed() < STALL_LIMIT,
            "nothing was processed for {} s and {events} events are left: go on with a kept database with --resume",
            STALL_LIMIT.as_secs()
        );
        sleep(LOOK_EVERY).await;
    }
    let processed = Instant::now();
    while leftovers(pool).await?.outbox > 0 && processed.elapsed() < DRAIN_LIMIT {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// What is left, as soon as the database answers.
async fn leftovers<B: DemoTables>(pool: &Pool<B>) -> Result<Leftovers> {
    let asked = Instant::now();
    loop {
        let found = async { B::leftovers(&mut *pool.acquire().await?).await };
        match found.await {
            Err(_) if asked.elapsed() < OUTAGE_LIMIT => sleep(LOOK_EVERY).await,
            found => return found.context("count what is left"),
        }
    }
}
