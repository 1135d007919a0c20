//! The pauses after errors of the infrastructure: they are nobody's failure, and stop what is begun for a moment.

use std::time::Duration;

use tokio::time::Instant;

use super::backoffs::pause_after;

/// The first and the longest pause; it doubles with every error in a row, and a random half is taken off.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[derive(Debug)]
pub(crate) struct Trouble {
    /// Errors in a row.
    errors: u32,
    until: Instant,
}

impl Trouble {
    pub(crate) fn none(now: Instant) -> Self {
        Trouble { errors: 0, until: now }
    }

    /// Until when nothing is begun, if that is not over.
    pub(crate) fn pauses_until(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }

    /// Something worked.
    pub(crate) fn is_over(&mut self) {
        self.errors = 0;
    }

    /// Something did not work; answers how long nothing is begun.
    pub(super) fn goes_on(&mut self) -> Duration {
        let pause = pause_after(self.errors, PAUSES);
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
        let mut trouble = Trouble::none(Instant::now());
        assert_eq!(trouble.pauses_until(Instant::now()), None);
        let pause = |times: u32, trouble: &mut Trouble| {
            for _ in 0..times {
                trouble.goes_on();
            }
            trouble.pauses_until(Instant::now()).unwrap() - Instant::now()
        };
        assert!(pause(1, &mut trouble) <= PAUSES.0);
        let long = pause(40, &mut trouble);
        assert!(long >= PAUSES.1 / 2 && long <= PAUSES.1);
        trouble.is_over();
        assert!(pause(1, &mut trouble) <= PAUSES.0);
        tokio::time::advance(PAUSES.0).await;
        assert_eq!(trouble.pauses_until(Instant::now()), None);
    }
}
