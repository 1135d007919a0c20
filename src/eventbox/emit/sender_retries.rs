//! Retries of a [`Sender`](crate::eventbox::Sender).

use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::Instant;

use crate::retry::endless_pauses;

/// Pause before the first retry; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause between retries.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Retries with growing pauses, until a time limit.
pub(super) struct Retries {
    until: Instant,
    pauses: ExponentialBackoff,
}

impl Retries {
    pub(super) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Retries { until: now.checked_add(limit).unwrap_or(now), pauses: endless_pauses(FIRST_PAUSE, MAX_PAUSE) }
    }

    /// Pauses before the next retry. Returns false when the time limit would pass.
    pub(super) async fn pause(&mut self) -> bool {
        let pause = self.pauses.next().unwrap_or(MAX_PAUSE);
        if Instant::now() + pause > self.until {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}
