//! Back-off after infrastructure errors, which count against no recipient. They pause the start of new work.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::pause_after;

/// First and longest pause. The pause doubles with every error in a row, minus a random half.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[derive(Debug)]
pub(crate) struct Interruption {
    /// Errors in a row.
    errors: u32,
    until: Instant,
}

impl Interruption {
    pub(crate) fn none(now: Instant) -> Self {
        Interruption { errors: 0, until: now }
    }

    /// Returns the end of the pause, if there is one.
    pub(crate) fn pauses_until(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }

    /// Ends the pauses: something worked.
    pub(crate) fn recovered(&mut self) {
        self.errors = 0;
    }

    /// Notes an error, and returns the length of the pause.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = pause_after(self.errors, PAUSES.0, PAUSES.1);
        self.errors = self.errors.saturating_add(1);
        self.until = Instant::now() + pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_something_works() {
        let mut trouble = Interruption::none(Instant::now());
        assert_eq!(trouble.pauses_until(Instant::now()), None);
        let pause = |times: u32, trouble: &mut Interruption| {
            for _ in 0..times {
                trouble.failed();
            }
            trouble.pauses_until(Instant::now()).unwrap() - Instant::now()
        };
        assert!(pause(1, &mut trouble) <= PAUSES.0);
        let long = pause(40, &mut trouble);
        assert!(long >= PAUSES.1 / 2 && long <= PAUSES.1);
        trouble.recovered();
        assert!(pause(1, &mut trouble) <= PAUSES.0);
        tokio::time::advance(PAUSES.0).await;
        assert_eq!(trouble.pauses_until(Instant::now()), None);
    }
}
