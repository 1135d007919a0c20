//! Waits for the end of a run: empty eventboxes, then an empty outbox.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::Pool;
use tokio::time::{Instant, sleep};

use super::bars::LOOK_EVERY;
use super::tables::{DemoTables, Leftovers};
use super::work::Tally;

/// Time limit without a processed event.
const STALL_LIMIT: Duration = Duration::from_secs(120);

/// Time limit of an unavailable database.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

/// Time limit of the last deliveries. It is longer than a killed process can hold its claims.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Waits until every event is processed and every message is delivered. The comparison reports undelivered messages.
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
            "no event was processed for {} s and {events} events are left: resume a kept database with --resume",
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

/// Counts the remaining rows, as soon as the database answers.
async fn leftovers<B: DemoTables>(pool: &Pool<B>) -> Result<Leftovers> {
    let asked = Instant::now();
    loop {
        let found = async { B::leftovers(&mut *pool.acquire().await?).await };
        match found.await {
            Err(_) if asked.elapsed() < OUTAGE_LIMIT => sleep(LOOK_EVERY).await,
            found => return found.context("count the remaining rows"),
        }
    }
}
