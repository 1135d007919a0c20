//! The sender: puts the flights into the boxes, some of them twice, and notes in the same transaction how far it got.

use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::{Emitted, Event, Recipient};
use sqlx::Pool;

use super::flights::Flight;
use super::tables::{DemoTables, Progress};

/// Events in one transaction. Part of the meaning of [`Progress::steps`], so it must not change for a database that is resumed.
const STEP_EVENTS: usize = 500;

/// How often a step is tried when another writer or a busy database is in the way.
const MAX_TRIES: u32 = 20;

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Sends what is not sent yet; calls `sent` with the number of events after each step.
///
/// A step that may or may not have committed is no trouble: the next try reads how far the sender got.
pub(crate) async fn run<B: DemoTables>(pool: &Pool<B>, flights: &[Flight], sent: impl Fn(usize)) -> Result<()> {
    let mut tries = 0;
    loop {
        let mut conn = pool.acquire().await.context("read how far the sender got")?;
        let progress = B::load_progress(&mut conn).await.context("read how far the sender got")?;
        drop(conn);
        let progress = progress.context("the demo's row of progress has vanished")?;
        let step = usize::try_from(progress.steps)?;
        sent((step * STEP_EVENTS).min(flights.len()));
        // One step more than there are pieces: each piece is sent again one step after its first time.
        if step > flights.len().div_ceil(STEP_EVENTS) {
            return Ok(());
        }
        match take_step(pool, flights, step, progress).await {
            Ok(()) => tries = 0,
            Err(error) if may_be_tried_again(&error) && tries < MAX_TRIES => {
                tries += 1;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error.context("send the flights")),
        }
    }
}

async fn take_step<B: DemoTables>(pool: &Pool<B>, flights: &[Flight], step: usize, progress: Progress) -> Result<()> {
    let first_time = events(flights, step)?;
    let again: Vec<_> = match step.checked_sub(1) {
        Some(previous) => chosen(events(flights, previous)?, previous * STEP_EVENTS, progress.resend),
        None => Vec::new(),
    };
    let mut tx = eventbox::begin(pool).await?;
    let answers = B::emit_all(&mut tx, &first_time).await?;
    let repeated = B::emit_all(&mut tx, &again).await?;
    let added = answers.iter().chain(&repeated).filter(|answer| **answer == Emitted::Added).count();
    let progress = Progress {
        steps: progress.steps + 1,
        emitted: progress.emitted + i64::try_from(added)?,
        resent: progress.resent + i64::try_from(again.len())?,
        duplicates: progress.duplicates + i64::try_from(first_time.len() + again.len() - added)?,
        ..progress
    };
    B::save_progress(&mut tx, &progress).await?;
    tx.commit().await?;
    Ok(())
}

fn events(flights: &[Flight], step: usize) -> Result<Vec<(Recipient, Event)>> {
    flights.iter().skip(step * STEP_EVENTS).take(STEP_EVENTS).map(Flight::event).collect()
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
