//! Wake-ups between processes. Everything works without them, at the pace of polls.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::roles::Database;
use crate::eventbox::{WakeUp, WakeUps, is_stream};
use crate::runtime::metrics;
use crate::runtime::shared::Shared;
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, Notification, answered, hold};

/// Shortest and longest average time between two wake-ups of this process. Under load one
/// wake-up carries more.
const WINDOW: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Number of wake-ups that may go at once after a pause: isolated wake-ups are sent at once.
const BURST: u32 = 20;

/// Number of recipients and shards in one wake-up above which the time between two wake-ups doubles.
const MANY: usize = 16;

/// Wait of a listener that lost its connection before it tries again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// The earliest time of the next wake-up.
struct NotifyWindow {
    window: Duration,
    /// Time at which all wake-ups so far would have been due, one in each window.
    due: Instant,
}

impl NotifyWindow {
    fn new(now: Instant) -> Self {
        NotifyWindow { window: WINDOW.0, due: now }
    }

    /// Counts a wake-up, and returns the earliest time of the next one.
    fn sent(&mut self, began: Instant, count: usize) -> Instant {
        let ahead = self.due.saturating_duration_since(began) + self.window;
        self.due = began + ahead;
        self.window = if count > MANY { (self.window * 2).min(WINDOW.1) } else { (self.window / 2).max(WINDOW.0) };
        began + ahead.saturating_sub(BURST * WINDOW.0)
    }
}

/// Which emits of this process a loop sends wake-ups for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// All of them.
    All,
    /// All of them, unless another loop of this process does so for the database.
    Unsent,
}

/// Sends wake-ups for emits of this process to shards and streams of other processes, until `stopping`.
pub(crate) async fn send_loop<B: Backend>(
    pool: Pool<B>,
    wake_ups: Arc<WakeUps>,
    owned: watch::Receiver<ShardSet>,
    sending: Sending,
    stopping: CancellationToken,
) {
    let database = Database::of(&pool);
    let _role = (sending == Sending::All).then(|| database.sends());
    let mut window = NotifyWindow::new(Instant::now());
    while !stopping.is_cancelled() {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = wake_ups.wait() => {}
        }
        let theirs = for_others(wake_ups.take(), *owned.borrow(), &database, sending);
        if theirs.is_empty() {
            continue;
        }
        let began = Instant::now();
        send(&pool, &theirs).await;
        sleep_until(window.sent(began, theirs.len())).await;
    }
}

/// Returns what other processes must know: neither the shards nor the streams of this process, and nothing that another
/// loop of this process sends.
fn for_others(wake_up: WakeUp, owned: ShardSet, database: &Database, sending: Sending) -> WakeUp {
    if sending == Sending::Unsent && database.is_sent() {
        return WakeUp::default();
    }
    let mut theirs = wake_up.without(owned);
    theirs.recipients.retain(|to| !is_stream(to.kind()) || !database.has(to));
    theirs
}

/// Sends one wake-up.
pub(super) async fn send<B: Backend>(pool: &Pool<B>, wake_up: &WakeUp) {
    let recipients = wake_up.recipients.iter().map(|to| to.as_str().to_owned()).collect();
    let wake_up = Notification { recipients, committed: wake_up.committed, shards: wake_up.shards };
    let sent = answered(pool, async { B::send_wake_up(&mut *hold(pool).await?, wake_up).await });
    if let Err::<(), Fault>(fault) = sent.await {
        tracing::debug!(error = %fault.0, "a wake-up could not be sent: a poll finds its events");
    }
}

/// Puts the wake-ups of other processes into `remote`, until `stopping`.
pub(crate) async fn listen_loop<B: Backend>(shared: Arc<Shared<B>>, remote: Arc<WakeUps>, stopping: CancellationToken) {
    let hearing = |wake_up: Notification| {
        metrics::listening(true);
        let recipients = wake_up.recipients.iter().filter_map(|to| to.parse().ok()).collect();
        remote.wake(&WakeUp { recipients, committed: wake_up.committed, shards: wake_up.shards });
    };
    while !stopping.is_cancelled() {
        metrics::listening(false);
        tokio::select! {
            () = stopping.cancelled() => return,
            ended = B::hear_wake_ups(&shared.pool, hearing) => {
                let Err(fault) = ended;
                metrics::listening(false);
                let error = fault.0;
                tracing::debug!(%error, "the listener for wake-ups ended: polls find events until it is back");
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
    use crate::recipient::Recipient;
    use crate::runtime::attended::Attended;

    #[test]
    fn a_wake_up_goes_out_once_and_for_other_processes_only() {
        let [here, elsewhere, stream_here, stream_elsewhere] =
            [("order", "1"), ("order", "2"), ("peer.chat", "here"), ("peer.chat", "elsewhere")]
                .map(|(kind, key)| Recipient::new(kind, key).unwrap());
        let wake_up = || WakeUp {
            recipients: [&here, &elsewhere, &stream_here, &stream_elsewhere].into_iter().cloned().collect(),
            ..WakeUp::default()
        };
        let owned = ShardSet::ALL.without(std::iter::once(elsewhere.shard()).collect());
        let database = Database::named("notify-test://one");
        let attended = Arc::<Attended>::default();
        attended.attend(&stream_here);
        let _streams = database.attends(Arc::clone(&attended));
        let sent = |sending| for_others(wake_up(), owned, &database, sending).recipients;
        let theirs = [elsewhere.clone(), stream_elsewhere.clone()].into();
        assert_eq!(sent(Sending::All), theirs);
        assert_eq!(sent(Sending::Unsent), theirs, "no other loop sends it");
        let other_loop = database.sends();
        assert!(sent(Sending::Unsent).is_empty());
        drop(other_loop);
        assert_eq!(sent(Sending::Unsent), theirs);
        attended.leave(&stream_here);
        assert!(sent(Sending::All).contains(&stream_here), "another process may have it next");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_wake_ups_go_at_once_and_many_are_spaced() {
        let now = Instant::now();
        let mut window = NotifyWindow::new(now);
        for _ in 0..BURST {
            assert_eq!(window.sent(now, 1), now);
        }
        assert_eq!(window.sent(now, 1), now + WINDOW.0, "one per window after the burst");
        let later = now + Duration::from_secs(1);
        assert_eq!(window.sent(later, MANY + 1), later, "a pause refills the burst");
        for _ in 0..10 {
            window.sent(later, MANY + 1);
        }
        assert_eq!(
            window.sent(later, MANY + 1) + WINDOW.1,
            window.sent(later, MANY + 1),
            "large wake-ups lengthen the window"
        );
    }
}
