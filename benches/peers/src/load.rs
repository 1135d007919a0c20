//! The sending tasks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::event::Event;
use crate::peer::Session;

/// Runs `tasks` tasks that emit single events to random recipients for `length`. Returns the number of events.
pub(crate) async fn emit_for(
    session: &Arc<dyn Session>,
    recipients: &Arc<Vec<String>>,
    tasks: usize,
    length: Duration,
) -> Result<usize> {
    let until = Instant::now() + length;
    let next = Arc::new(AtomicUsize::new(0));
    let mut emitting = JoinSet::new();
    for _ in 0..tasks {
        let (session, recipients, next) = (Arc::clone(session), Arc::clone(recipients), Arc::clone(&next));
        emitting.spawn(async move {
            let mut emitted = 0;
            while Instant::now() < until {
                let to = fastrand::choice(recipients.iter()).context("there are no recipients")?;
                session.emit(Event::new(to, next.fetch_add(1, Ordering::Relaxed))).await?;
                emitted += 1;
            }
            anyhow::Ok(emitted)
        });
    }
    let mut emitted = 0;
    while let Some(ended) = emitting.join_next().await {
        emitted += ended??;
    }
    Ok(emitted)
}

/// Emits the events `0..total`, `batch` in each commit. Event n goes to recipient n modulo their count. Stops early
/// at `until`. Returns the number of events.
pub(crate) async fn emit_batches(
    session: &Arc<dyn Session>,
    recipients: &Arc<Vec<String>>,
    total: usize,
    (batch, tasks): (usize, usize),
    until: Option<Instant>,
) -> Result<usize> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut emitting = JoinSet::new();
    for _ in 0..tasks {
        let (session, recipients, next) = (Arc::clone(session), Arc::clone(recipients), Arc::clone(&next));
        emitting.spawn(async move {
            let mut emitted = 0;
            while until.is_none_or(|until| Instant::now() < until) {
                let from = next.fetch_add(batch, Ordering::Relaxed);
                if from >= total {
                    break;
                }
                let events = events(&recipients, from..total.min(from + batch));
                let count = events.len();
                session.emit_batch(events).await?;
                emitted += count;
            }
            anyhow::Ok(emitted)
        });
    }
    let mut emitted = 0;
    while let Some(ended) = emitting.join_next().await {
        emitted += ended??;
    }
    Ok(emitted)
}

fn events(recipients: &[String], numbers: Range<usize>) -> Vec<Event> {
    numbers.filter_map(|number| Some(Event::new(recipients.get(number % recipients.len().max(1))?, number))).collect()
}

/// Emits single events at a steady rate, also while earlier calls have not returned. Returns their number.
pub(crate) async fn emit_steadily(
    session: &Arc<dyn Session>,
    recipients: &Arc<Vec<String>>,
    a_second: u32,
    length: Duration,
) -> Result<usize> {
    let until = Instant::now() + length;
    let mut ticks = interval(Duration::from_secs(1) / a_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    let mut sent = 0;
    while Instant::now() < until {
        ticks.tick().await;
        let (session, recipients, number) = (Arc::clone(session), Arc::clone(recipients), sent);
        calls.spawn(async move {
            let to = fastrand::choice(recipients.iter()).context("there are no recipients")?;
            session.emit(Event::stamped(to, number)).await
        });
        sent += 1;
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(sent)
}
