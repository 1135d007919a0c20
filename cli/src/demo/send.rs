//! The sender: emits the flights, some of them twice, and saves its progress in the same transaction.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::{Emitted, Event, Recipient};
use sqlx::Pool;
use tokio::time::{Instant, sleep_until};

use super::flights::Flight;
use super::tables::{DemoTables, Progress};

/// Maximum number of events in one transaction.
const MAX_STEP_EVENTS: u32 = 500;

/// Number of transactions a second of a sender with a rate limit, if the rate allows.
const STEPS_A_SECOND: u32 = 10;

/// Maximum number of attempts of a step, if another writer or a busy database blocks it.
const MAX_TRIES: u32 = 20;

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Returns the number of events of a step. With a rate limit, the sender sends small steps often.
pub(crate) fn step_events(rate: Option<NonZeroU32>) -> i32 {
    let events = rate.map_or(MAX_STEP_EVENTS, |rate| (rate.get() / STEPS_A_SECOND).clamp(1, MAX_STEP_EVENTS));
    i32::try_from(events).unwrap_or(1)
}

/// Sends the remaining events, at most `rate` a second. Calls `sent` with the number of events after each step.
///
/// A step with an unknown commit is safe: the next attempt reads the sender's progress.
pub(crate) async fn run<B: DemoTables>(
    pool: &Pool<B>,
    flights: &[Flight],
    rate: Option<NonZeroU32>,
    sent: impl Fn(usize),
) -> Result<()> {
    let mut tries = 0;
    loop {
        let mut conn = pool.acquire().await.context("read the sender's progress")?;
        let progress = B::load_progress(&mut conn).await.context("read the sender's progress")?;
        drop(conn);
        let progress = progress.context("the demo's progress row is missing")?;
        let (step, step_events) = (usize::try_from(progress.steps)?, usize::try_from(progress.step_events)?.max(1));
        sent((step * step_events).min(flights.len()));
        // One step more than there are pieces, because a piece is sent again one step later.
        if step > flights.len().div_ceil(step_events) {
            return Ok(());
        }
        let begun = Instant::now();
        match take_step(pool, flights, step, progress).await {
            Ok(events) => {
                tries = 0;
                // A late step is not made up for, because that would exceed the rate.
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

/// Sends one piece, and parts of the previous piece again. Returns the number of events.
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

/// Returns every n-th event, so that `percent` of all are chosen.
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
