//! Waking up other processes, and being woken up by them. Everything works without it, at the pace of the poll.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::eventbox::{Hinted, Hints};
use crate::runtime::metrics;
use crate::runtime::working::tasks::Shared;
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, Told, answered, hold};

/// The shortest and the longest time between two wake-ups that this process sends, on average: the more there is to be told, the more of it goes
/// together.
const WINDOW: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How many wake-ups may go at once after a time without any: what comes in ones does not wait for a window to end.
const BURST: u32 = 20;

/// The time between two wake-ups doubles when more recipients and shards than this are told of in one.
const MANY: usize = 16;

/// How long a listener that lost its connection waits before it tries again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// When the next wake-up may go.
struct Pace {
    window: Duration,
    /// When all that went would have been due, one in each window.
    due: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Pace { window: WINDOW.0, due: now }
    }

    /// Takes note of a wake-up that began then and told of so many; no other one goes before what comes back.
    fn told(&mut self, began: Instant, count: usize) -> Instant {
        let ahead = self.due.saturating_duration_since(began) + self.window;
        self.due = began + ahead;
        self.window = if count > MANY { (self.window * 2).min(WINDOW.1) } else { (self.window / 2).max(WINDOW.0) };
        began + ahead.saturating_sub(BURST * WINDOW.0)
    }
}

/// Tells the others about emits of this process to shards that are theirs, until `stopping`.
pub(crate) async fn send<B: Backend>(
    pool: Pool<B>,
    hints: Arc<Hints>,
    owned: watch::Receiver<ShardSet>,
    stopping: CancellationToken,
) {
    let mut pace = Pace::new(Instant::now());
    while !stopping.is_cancelled() {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = hints.wait() => {}
        }
        let theirs = hints.take().without(*owned.borrow());
        if theirs.is_empty() {
            continue;
        }
        let began = Instant::now();
        tell(&pool, &theirs).await;
        sleep_until(pace.told(began, theirs.len())).await;
    }
}

/// Tells the others.
pub(super) async fn tell<B: Backend>(pool: &Pool<B>, hinted: &Hinted) {
    let recipients = hinted.recipients.iter().map(|to| to.as_str().to_owned()).collect();
    let told = Told { recipients, committed: hinted.committed, shards: hinted.shards };
    let sent = answered(pool, async { B::send_wake_up(&mut *hold(pool).await?, told).await });
    if let Err::<(), Fault>(fault) = sent.await {
        tracing::debug!(error = %fault.0, "a wake-up could not be sent: the poll makes it good");
    }
}

/// Reports what the others say into `heard`, until `stopping`.
pub(crate) async fn hear<B: Backend>(shared: Arc<Shared<B>>, heard: Arc<Hints>, stopping: CancellationToken) {
    let hearing = |told: Told| {
        metrics::listening(true);
        let recipients = told.recipients.iter().filter_map(|to| to.parse().ok()).collect();
        heard.tell(&Hinted { recipients, committed: told.committed, shards: told.shards });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_go_at_once_and_many_wait_for_each_other() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..BURST {
            assert_eq!(pace.told(now, 1), now);
        }
        assert_eq!(pace.told(now, 1), now + WINDOW.0, "one in each window behind the first ones");
        let later = now + Duration::from_secs(1);
        assert_eq!(pace.told(later, MANY + 1), later, "a time without any is made good");
        for _ in 0..10 {
            pace.told(later, MANY + 1);
        }
        assert_eq!(pace.told(later, MANY + 1) + WINDOW.1, pace.told(later, MANY + 1), "and so are the windows longer");
    }
}
