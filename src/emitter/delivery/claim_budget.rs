//! Limits the claimed rows that wait for the client to those it can send while their claims last.

use std::time::Duration;

use tokio::time::Instant;

/// Least time over which a rate is measured.
const MEASURED_OVER: Duration = Duration::from_millis(250);

/// Rate at which the server answers messages, measured during the retransmission.
///
/// A row that is not sent within its claim was claimed in vain: the claim counts as an attempt, and delays the row
/// until it ends.
pub(crate) struct ClaimBudget {
    since: Instant,
    answered: u64,
    /// Messages per second; `None` before the first measurement.
    rate: Option<f64>,
}

impl ClaimBudget {
    /// Begins to measure, with the number of answers so far.
    pub(crate) fn new(answered: u64) -> Self {
        ClaimBudget { since: Instant::now(), answered, rate: None }
    }

    /// Notes the number of answers up to now.
    pub(crate) fn note(&mut self, answered: u64) {
        let elapsed = self.since.elapsed();
        if elapsed >= MEASURED_OVER {
            let new =
                crate::instrument::whole(usize::try_from(answered.saturating_sub(self.answered)).unwrap_or(usize::MAX));
            *self = ClaimBudget { since: Instant::now(), answered, rate: Some(new / elapsed.as_secs_f64()) };
        }
    }

    /// Returns the number of rows that can wait so that the last is sent within `window`: at least `least`, and `least`
    /// before the first measurement.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn may_wait(&self, window: Duration, least: usize) -> usize {
        self.rate.map_or(least, |rate| least.max((rate * window.as_secs_f64()) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_backlog_of_claims_follows_the_rate_down_to_a_minimum() {
        let mut budget = ClaimBudget::new(100);
        let window = Duration::from_secs(2);
        assert_eq!(budget.may_wait(window, 200), 200);
        tokio::time::advance(MEASURED_OVER / 2).await;
        budget.note(100_000);
        assert_eq!(budget.may_wait(window, 200), 200, "too short a time says nothing");
        tokio::time::advance(MEASURED_OVER / 2).await;
        budget.note(600);
        assert_eq!(budget.may_wait(window, 200), 4_000);
        tokio::time::advance(MEASURED_OVER).await;
        budget.note(601);
        assert_eq!(budget.may_wait(window, 200), 200);
    }
}
