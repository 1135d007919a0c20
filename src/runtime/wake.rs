//! Waking up other processes, and being woken up by them. Everything works without it, at the pace of the poll.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::metrics;
use super::tasks::Shared;
use crate::eventbox::{Hinted, Hints};
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, Told};

/// The shortest and the longest time between two wake-ups that this process sends, on average: the more there is to be told, the more of it goes
/// together.
const WINDOW: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How many wake-ups may go at once after a time without any: what comes by the one does not wait for a window to end.
const BURST: u32 = 20;

/// The time between two wake-ups doubles when more recipients and shards than this are told of in one.
const MANY: usize = 16;

/// How long a listener that lost its connection waits before it tries again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Tells the others about emits of this process to shards that are theirs, until `stopping`.
pub(super) async fn send<B: Backend>(
    pool: Pool<B>,
    hints: Arc<Hints>,
    owned: watch::Receiver<ShardSet>,
    stopping: CancellationToken,
) {
    let (mut window, mut due) = (WINDOW.0, Instant::now());
    while !stopping.is_cancelled() {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = hints.wait() => {}
        }
        let theirs = hints.take().without(*owned.borrow());
        if theirs.is_empty() {
            continue;
        }
        let now = Instant::now();
        due = due.max(now) + window;
        tell(&pool, &theirs).await;
        window = if theirs.len() > MANY { (window * 2).min(WINDOW.1) } else { (window / 2).max(WINDOW.0) };
        if due > now + BURST * WINDOW.0 {
            sleep_until(due - BURST * WINDOW.0).await;
        }
    }
}

/// Tells the others.
pub(super) async fn tell<B: Backend>(pool: &Pool<B>, hinted: &Hinted) {
    let recipients = hinted.recipients.iter().map(|to| to.as_str().to_owned()).collect();
    let told = Told { recipients, shards: hinted.shards };
    let sent = async { B::send_wake_up(&mut *pool.acquire().await?, told).await };
    if let Err::<(), Fault>(fault) = sent.await {
        tracing::debug!(error = %fault.0, "a wake-up could not be sent: the poll makes it good");
    }
}

/// Reports what the others say into `heard`, until `stopping`.
pub(super) async fn hear<B: Backend>(shared: Arc<Shared<B>>, heard: Arc<Hints>, stopping: CancellationToken) {
    let hearing = |told: Told| {
        metrics::listening(true);
        let recipients = told.recipients.iter().filter_map(|to| to.parse().ok()).collect();
        heard.tell(&Hinted { recipients, shards: told.shards });
    };
    while !stopping.is_cancelled() {
        metrics::listening(false);
        tokio::select! {
            () = stopping.cancelled() => return,
            ended = B::hear_wake_ups(&shared.pool, hearing) => {
                let Err(fault) = ended;
                metrics::listening(false);
                tracing::debug!(error = %fault.0, "the listener for wake-ups ended: the poll makes it good until it listens again");
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(LISTEN_AGAIN) => {}
        }
    }
}
