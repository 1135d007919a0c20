//! The circuit breaker of an endpoint: it stops sending, never accepting.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Requests that fail in a row until it opens.
    pub failures: NonZeroU32,
    /// How long it stays open at first; twice as long after each failed probe.
    pub cool_down: Duration,
    /// The longest it stays open without a probe.
    pub max_cool_down: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            failures: NonZeroU32::MIN.saturating_add(4),
            cool_down: Duration::from_secs(1),
            max_cool_down: Duration::from_secs(30),
        }
    }
}

/// What the breaker lets through now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing, for this long.
    Open {
        /// Until the next probe.
        remaining: Duration,
    },
    /// One request at a time, to see whether the endpoint is back.
    HalfOpen,
}

/// Per endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Breaker {
    config: BreakerConfig,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    failures: u32,
    /// Open, and until when; half-open after that.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    until: Instant,
    cool_down: Duration,
    probing: bool,
}

/// The leave to send one request. Say how it went; dropping it says nothing and lets another probe through.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Breaker { config, inner: Arc::new(Mutex::new(Inner { failures: 0, open: None })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.lock().open {
            None => BreakerState::Closed,
            Some(open) => match open.until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => BreakerState::HalfOpen,
                remaining => BreakerState::Open { remaining },
            },
        }
    }

    /// How long it has not been closed.
    pub(super) fn open_for(&self) -> Duration {
        self.lock().open.map_or(Duration::ZERO, |open| open.since.elapsed())
    }

    pub(super) fn pass(&self) -> Option<Pass> {
        let mut inner = self.lock();
        let probe = match &mut inner.open {
            None => false,
            Some(open) if open.probing || Instant::now() < open.until => return None,
            Some(open) => {
                open.probing = true;
                true
            }
        };
        Some(Pass { breaker: self.clone(), probe })
    }
}

impl Pass {
    /// The endpoint answered.
    pub(super) fn success(mut self) {
        self.probe = false;
        let mut inner = self.breaker.lock();
        inner.failures = 0;
        if inner.open.take().is_some() {
            tracing::info!("the circuit to the endpoint is closed again");
        }
    }

    /// The endpoint failed; `for_certain` opens at once.
    pub(super) fn failure(mut self, for_certain: bool) {
        let probe = std::mem::take(&mut self.probe);
        let config = self.breaker.config;
        let mut inner = self.breaker.lock();
        inner.failures = inner.failures.saturating_add(1);
        let now = Instant::now();
        match inner.open {
            Some(open) if probe => {
                let cool_down = (open.cool_down * 2).min(config.max_cool_down);
                inner.open = Some(Open { until: now + jittered(cool_down), cool_down, probing: false, ..open });
            }
            // A request from before it opened.
            Some(_) => {}
            None if for_certain || inner.failures >= config.failures.get() => {
                tracing::warn!(
                    failures = inner.failures,
                    "the circuit to the endpoint is open: not sending for a while"
                );
                let cool_down = config.cool_down;
                inner.open = Some(Open { since: now, until: now + jittered(cool_down), cool_down, probing: false });
            }
            None => {}
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
    }
}

/// Between three quarters of the duration and all of it, so that hosts do not probe in step.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + fastrand::f64() * 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig { failures: NonZeroU32::new(2).unwrap(), ..BreakerConfig::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_probes_once_and_closes() {
        let breaker = breaker();
        breaker.pass().unwrap().failure(false);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.pass().unwrap().failure(false);
        assert!(matches!(breaker.state(), BreakerState::Open { .. }));
        assert!(breaker.pass().is_none());

        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probe = breaker.pass().unwrap();
        assert!(breaker.pass().is_none(), "one probe at a time");
        probe.failure(false);
        assert!(breaker.pass().is_none());

        tokio::time::advance(Duration::from_secs(2)).await;
        drop(breaker.pass().unwrap());
        breaker.pass().expect("a probe that was given up lets another through").success();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.pass().is_some() && breaker.pass().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_resets_the_count_and_certainty_needs_none() {
        let breaker = breaker();
        breaker.pass().unwrap().failure(false);
        breaker.pass().unwrap().success();
        breaker.pass().unwrap().failure(false);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.pass().unwrap().success();
        breaker.pass().unwrap().failure(true);
        assert!(breaker.pass().is_none());
    }
}
