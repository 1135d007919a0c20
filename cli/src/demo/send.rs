//! The sender: puts the flights into the boxes, some of them twice, and notes in the same transaction how far it got.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::{Emitted, Event, Recipient};
use sqlx::Pool;
use tokio::time::{Instant, sleep_until};

use super::flights::Flight;
use super::tables::{DemoTables, Progress};

/// The most events in one transaction.
const MAX_STEP_EVENTS: u32 = 500;

/// How many transactions a sender with a rate makes in a second, if the rate allows.
const STEPS_A_SECOND: u32 = 10;

/// How often a step is tried when another writer or a busy database is in the way.
const MAX_TRIES: u32 = 20;

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How many events a step has, so that a sender with a rate sends a few often and not many at times.
pub(crate) fn step_events(rate: Option<NonZeroU32>) -> i32 {
    let events = rate.map_or(MAX_STEP_EVENTS, |rate| (rate.get() / STEPS_A_SECOND).clamp(1, MAX_STEP_EVENTS));
    i32::try_from(events).unwrap_or(1)
}

/// Sends what is not sent yet, no faster than `rate` events a second; calls `sent` with the number of events after each step.
///
/// A step that may or may not have committed is no trouble: the next try reads how far the sender got.
pub(crate) async fn run<B: DemoTables>(
    pool: &Pool<B>,
    flights: &[Flight],
    rate: Option<NonZeroU32>,
    sent: impl Fn(usize),
) -> Result<()> {
    let mut tries = 0;
    loop {
        let mut conn = pool.acquire().await.context("read how far the sender got")?;
        let progress = B::load_progress(&mut conn).await.context("read how far the sender got")?;
        drop(conn);
        let progress = progress.context("the demo's row of progress has vanished")?;
        let (step, step_events) = (usize::try_from(progress.steps)?, usize::try_from(progress.step_events)?.max(1));
        sent((step * step_events).min(flights.len()));
        // One step more than there are pieces: each piece is sent again one step after its first time.
        if step > flights.len().div_ceil(step_events) {
            return Ok(());
        }
        let begun = Instant::now();
        match take_step(pool, flights, step, progress).await {
            Ok(events) => {
                tries = 0;
                // What took longer than its time is not made up for: that would be faster for a moment.
                if let Some(rate) = rate {
                    sleep_until(begun + Duration::from_secs(events) / rate.get()).await;
                }
            }
            Err(error) if may_be_tried_again(&error) && tries < MAX_TRIES => {
                tries += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error.context("send the flights")),
        }
    }
}

/// Sends one piece, and some of the one before it again; answers how many events that were.
async fn take_step<B: DemoTables>(pool: &Pool<B>, flights: &[Flight], step: usize, progress: Progress) -> Result<u64> {
    let size = usize::try_from(progress.step_events)?;
    let first_time = events(flights, step, size)?;
    let again: Vec<_> = match step.checked_sub(1) {
        Some(previous) => chosen(events(flights, previous, size)?, previous * size, progress.resend),
        None => Vec::new(),
    };
    let mut tx = eventbox::begin(pool).await?;
    let answers = B::emit_all(&mut tx, &first_time).await?;
    let repeated = B::emit_all(&mut tx, &again).await?;
    let added = answers.iter().chain(&repeated).filter(|answer| **answer == Emitted::Added).count();
    let sent = first_time.len() + again.len();
    let progress = Progress {
        steps: progress.steps + 1,
        emitted: progress.emitted + i64::try_from(added)?,
        resent: progress.resent + i64::try_from(again.len())?,
        duplicates: progress.duplicates + i64::try_from(sent - added)?,
        ..progress
    };
    B::save_progress(&mut tx, &progress).await?;
    tx.commit().await?;
    Ok(u64::try_from(sent)?)
}

fn events(flights: &[Flight], step: usize, size: usize) -> Result<Vec<(Recipient, Event)>> {
    flights.iter().skip(step * size).take(size).map(Flight::event).collect()
}

/// Every n-th of the events, so that `percent` of all are chosen.
fn chosen(events: Vec<(Recipient, Event)>, offset: usize, percent: i32) -> Vec<(Recipient, Event)> {
    let percent = usize::try_from(percent).unwrap_or(0);
    let picked = |index: usize| (index + 1) * percent / 100 > index * percent / 100;
    events.into_iter().enumerate().filter(|(index, _)| picked(offset + index)).map(|(_, event)| event).collect()
}

fn may_be_tried_again(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<eventbox::Error>().is_some_and(eventbox::Error::is_transient)
            || matches!(cause.downcast_ref::<sqlx::Error>(), Some(sqlx::Error::Io(_) | sqlx::Error::Database(_)))
    })
}
