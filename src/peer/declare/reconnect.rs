//! When a connection is made again.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

/// Time after a loss without retries until the only further attempt.
pub(in crate::peer) const ONLY_RETRY: Duration = Duration::from_secs(1);

/// The attempts of a peer to connect.
///
/// Source: Tremor's attempt record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempts {
    /// All attempts.
    pub overall: u64,
    /// Attempts that connected.
    pub successes: u64,
    /// Attempts that failed since the last one that connected.
    pub since_success: u64,
}

impl Attempts {
    pub(in crate::peer) fn succeeded(&mut self) {
        self.overall = self.overall.saturating_add(1);
        self.successes = self.successes.saturating_add(1);
        self.since_success = 0;
    }

    pub(in crate::peer) fn failed(&mut self) {
        self.overall = self.overall.saturating_add(1);
        self.since_success = self.since_success.saturating_add(1);
    }
}

/// When a peer connects again after a failure or a loss.
///
/// The pause before an attempt is random, between nothing and its step (*full jitter*). The first step is `initial`,
/// each next one is `growth` times the last, and none is longer than `cap`. The steps begin anew once a connection was
/// healthy for `reset_after`, or an event went through it: a connection that dies at once makes the pauses longer.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Reconnect;
/// use std::time::Duration;
///
/// let patient = Reconnect::default().with_cap(Duration::from_secs(300));
/// let once = Reconnect::never();
/// assert!(patient.retries && !once.retries);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Reconnect {
    /// Whether the peer retries. Without retries a failed first attempt is final, and a lost connection is tried once
    /// more, after a second.
    pub retries: bool,
    /// First step; 100 ms by default.
    pub initial: Duration,
    /// Growth of the steps; 2 by default.
    pub growth: f64,
    /// Longest step; 30 s by default.
    pub cap: Duration,
    /// Failed attempts in a row after which the peer gives up; none by default.
    pub max_attempts: Option<NonZeroU32>,
    /// Time of health after which the steps begin anew; 30 s by default.
    pub reset_after: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            retries: true,
            initial: Duration::from_millis(100),
            growth: 2.0,
            cap: Duration::from_secs(30),
            max_attempts: None,
            reset_after: Duration::from_secs(30),
        }
    }
}

/// The keys of `[peer.reconnect]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    retries: Option<bool>,
    initial_ms: Option<u64>,
    growth: Option<f64>,
    cap_ms: Option<u64>,
    max_attempts: Option<NonZeroU32>,
    reset_after_ms: Option<u64>,
}

impl<'de> Deserialize<'de> for Reconnect {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (keys, default) = (Keys::deserialize(deserializer)?, Reconnect::default());
        let time = |ms: Option<u64>, default| ms.map_or(default, Duration::from_millis);
        let reconnect = Reconnect {
            retries: keys.retries.unwrap_or(default.retries),
            initial: time(keys.initial_ms, default.initial),
            growth: keys.growth.unwrap_or(default.growth),
            cap: time(keys.cap_ms, default.cap),
            max_attempts: keys.max_attempts,
            reset_after: time(keys.reset_after_ms, default.reset_after),
        };
        reconnect.check().map_err(serde::de::Error::custom)?;
        Ok(reconnect)
    }
}

impl Reconnect {
    /// Never retries.
    #[must_use]
    pub fn never() -> Self {
        Reconnect { retries: false, ..Reconnect::default() }
    }

    /// Sets the first step.
    #[must_use]
    pub fn with_initial(self, initial: Duration) -> Self {
        Reconnect { initial, ..self }
    }

    /// Sets the longest step.
    #[must_use]
    pub fn with_cap(self, cap: Duration) -> Self {
        Reconnect { cap, ..self }
    }

    /// Sets the failed attempts in a row after which the peer gives up.
    #[must_use]
    pub fn with_max_attempts(self, attempts: NonZeroU32) -> Self {
        Reconnect { max_attempts: Some(attempts), ..self }
    }

    pub(in crate::peer) fn check(&self) -> Result<(), String> {
        if self.initial.is_zero() || self.cap < self.initial {
            return Err("reconnect: initial must be above zero, and cap not shorter than initial".to_owned());
        }
        if !self.growth.is_finite() || self.growth < 1.0 {
            return Err(format!("reconnect: growth is {}: set it to 1 or more", self.growth));
        }
        Ok(())
    }

    /// Returns the pause before the next attempt; `None` to give up. `failures` are the failures of connections that
    /// were not healthy, in a row, and `was_connected` says whether the last life connected.
    pub(in crate::peer) fn pause(&self, attempts: &Attempts, failures: u32, was_connected: bool) -> Option<Duration> {
        if !self.retries {
            return was_connected.then_some(ONLY_RETRY);
        }
        if let Some(most) = self.max_attempts
            && attempts.since_success >= u64::from(most.get())
        {
            return None;
        }
        Some(self.step(failures).mul_f64(fastrand::f64()))
    }

    /// Returns the longest pause after this many failures in a row.
    fn step(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let step_s = self.initial.as_secs_f64() * self.growth.powi(exponent);
        Duration::try_from_secs_f64(step_s.min(self.cap.as_secs_f64())).unwrap_or(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 1 of the acceptance cases.
    #[test]
    fn attempts_are_counted() {
        let mut attempts = Attempts::default();
        attempts.succeeded();
        assert_eq!(attempts, Attempts { overall: 1, successes: 1, since_success: 0 });
        attempts.failed();
        attempts.failed();
        assert_eq!(attempts, Attempts { overall: 3, successes: 1, since_success: 2 });
        attempts.succeeded();
        assert_eq!(attempts, Attempts { overall: 4, successes: 2, since_success: 0 });
    }

    /// Case 2 of the acceptance cases.
    #[test]
    fn without_retries_only_a_loss_is_tried_again() {
        let never = Reconnect::never();
        let mut attempts = Attempts::default();
        attempts.failed();
        assert_eq!(never.pause(&attempts, 1, false), None, "the first connect failed");
        attempts.succeeded();
        assert_eq!(never.pause(&attempts, 1, true), Some(ONLY_RETRY));
        attempts.failed();
        assert_eq!(never.pause(&attempts, 2, false), None);

        let three = Reconnect::default().with_max_attempts(NonZeroU32::new(3).unwrap());
        let mut attempts = Attempts::default();
        for failed in 1..=3 {
            attempts.failed();
            assert_eq!(three.pause(&attempts, failed, false).is_some(), failed < 3, "{failed}");
        }
    }

    #[test]
    fn pauses_grow_to_the_cap() {
        let reconnect = Reconnect::default();
        let steps: Vec<u128> = [1, 2, 3, 9, 10, 1_000, u32::MAX].map(|n| reconnect.step(n).as_millis()).into();
        assert_eq!(steps, [100, 200, 400, 25_600, 30_000, 30_000, 30_000]);
        assert!((0..100).all(|_| reconnect.pause(&Attempts::default(), 3, true).unwrap().as_millis() <= 400));
    }

    #[test]
    fn wrong_settings_are_refused() {
        let zero = Reconnect::default().with_initial(Duration::ZERO);
        let short = Reconnect::default().with_cap(Duration::from_millis(1));
        let shrinking = Reconnect { growth: 0.5, ..Reconnect::default() };
        assert!([zero, short, shrinking].iter().all(|reconnect| reconnect.check().is_err()));
    }
}
