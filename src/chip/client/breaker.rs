//! The circuit breaker of an endpoint: it stops the sending, and never the accepting.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::retry::pause_after;
use crate::text::fit;

/// Time in which openings are counted.
pub const FLAP_WINDOW: Duration = Duration::from_secs(300);

/// Openings within [`FLAP_WINDOW`] from which on health reports that the breaker flaps.
pub const FLAP_OPENINGS: usize = 3;

/// Condition on which the breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Requests in a row that fail before the breaker opens.
    pub failures: NonZeroU32,
    /// First time for which the breaker stays open; it doubles after each failed probe. Jitter takes off up to half.
    pub cool_down: Duration,
    /// Longest time for which the breaker stays open without a probe.
    pub max_cool_down: Duration,
}

impl BreakerConfig {
    /// Sets the requests in a row that fail before the breaker opens.
    #[must_use]
    pub const fn with_failures(self, failures: NonZeroU32) -> Self {
        BreakerConfig { failures, ..self }
    }

    /// Sets the first time for which the breaker stays open.
    #[must_use]
    pub const fn with_cool_down(self, cool_down: Duration) -> Self {
        BreakerConfig { cool_down, ..self }
    }

    /// Sets the longest time for which the breaker stays open.
    #[must_use]
    pub const fn with_max_cool_down(self, max_cool_down: Duration) -> Self {
        BreakerConfig { max_cool_down, ..self }
    }
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

/// State of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Every request passes.
    Closed,
    /// No request passes.
    Open {
        /// Time until the next probe.
        remaining: Duration,
    },
    /// One request at a time passes, as a probe of the endpoint.
    HalfOpen,
}

/// A breaker that is not closed; see [`BatchClient::open_breaker`](crate::chip::BatchClient::open_breaker).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerReport {
    /// Name of the endpoint: [`Transport::destination`](crate::chip::Transport::destination).
    pub endpoint: String,
    /// State of the breaker, never [`BreakerState::Closed`].
    pub state: BreakerState,
    /// Time since the breaker was last closed.
    pub open_for: Duration,
    /// Last error of a request, at most [`MAX_BREAKER_ERROR_BYTES`] of it.
    pub last_error: Option<String>,
}

/// Most bytes of the error in a [`BreakerReport`].
pub const MAX_BREAKER_ERROR_BYTES: usize = 300;

/// The breaker of one endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    /// `None`: the breaker opens only when the server asks for a pause.
    config: Option<BreakerConfig>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    failures: u32,
    /// Set while the breaker is not closed.
    open: Option<Open>,
    /// Times of the last openings for failures.
    openings: VecDeque<Instant>,
    last_error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    until: Instant,
    /// Probes that failed since then.
    failed_probes: u32,
    probing: bool,
}

/// Permission to send one request. Report the result; a dropped pass reports nothing, and lets another probe through.
#[derive(Debug)]
pub(crate) struct Pass {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    pub(crate) fn new(config: Option<BreakerConfig>) -> Self {
        let inner = Inner { failures: 0, open: None, openings: VecDeque::new(), last_error: None };
        Breaker { config, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.lock().open {
            None => BreakerState::Closed,
            Some(open) => match open.until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => BreakerState::HalfOpen,
                remaining => BreakerState::Open { remaining },
            },
        }
    }

    /// Notes the error of a request that counts against the endpoint.
    pub(crate) fn note_error(&self, error: &str) {
        self.lock().last_error = Some(fit(error, MAX_BREAKER_ERROR_BYTES));
    }

    /// Returns the report of the breaker to this endpoint, unless it is closed.
    pub(crate) fn report(&self, endpoint: String) -> Option<BreakerReport> {
        let state = self.state();
        let inner = self.lock();
        let open_for = inner.open?.since.elapsed();
        (state != BreakerState::Closed).then(|| BreakerReport {
            endpoint,
            state,
            open_for,
            last_error: inner.last_error.clone(),
        })
    }

    /// Returns the time since the breaker was last closed.
    pub(crate) fn open_for(&self) -> Duration {
        self.lock().open.map_or(Duration::ZERO, |open| open.since.elapsed())
    }

    /// Returns the number of openings within [`FLAP_WINDOW`], from [`FLAP_OPENINGS`] on.
    pub(crate) fn flapping(&self) -> Option<usize> {
        let mut inner = self.lock();
        inner.openings.retain(|at| at.elapsed() < FLAP_WINDOW);
        Some(inner.openings.len()).filter(|openings| *openings >= FLAP_OPENINGS)
    }

    /// Returns the permission for a request, unless the breaker is open.
    pub(crate) fn pass(&self) -> Option<Pass> {
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
    /// Returns whether the request is a probe.
    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    /// Reports that the endpoint answered. Returns whether that closed the breaker.
    pub(crate) fn success(mut self) -> bool {
        self.probe = false;
        let mut inner = self.breaker.lock();
        inner.failures = 0;
        inner.last_error = None;
        let closed = inner.open.take().is_some();
        if closed {
            tracing::info!("the circuit to the endpoint is closed again");
        }
        closed
    }

    /// Reports that the endpoint failed; `for_certain` opens the breaker at once. Returns whether the breaker opened.
    pub(crate) fn failure(mut self, for_certain: bool) -> bool {
        let probe = std::mem::take(&mut self.probe);
        let config = self.breaker.config;
        let mut inner = self.breaker.lock();
        inner.failures = inner.failures.saturating_add(1);
        let now = Instant::now();
        let BreakerConfig { failures, cool_down, max_cool_down } = config.unwrap_or_default();
        match inner.open {
            Some(open) if probe => {
                let failed_probes = open.failed_probes.saturating_add(1);
                let until = now + pause_after(failed_probes, cool_down, max_cool_down);
                inner.open = Some(Open { until, failed_probes, probing: false, ..open });
                false
            }
            // The request began before the breaker opened.
            Some(_) => false,
            None if config.is_some() && (for_certain || inner.failures >= failures.get()) => {
                let failures = inner.failures;
                tracing::warn!(failures, "the circuit to the endpoint is open: single requests probe it");
                let until = now + pause_after(0, cool_down, max_cool_down);
                inner.open = Some(Open { since: now, until, failed_probes: 0, probing: false });
                if inner.openings.len() >= MAX_OPENINGS {
                    inner.openings.pop_front();
                }
                inner.openings.push_back(now);
                true
            }
            None => false,
        }
    }

    /// Reports that the endpoint asked for a pause. Returns whether the breaker opened.
    pub(crate) fn pause(mut self, wait: Duration) -> bool {
        self.probe = false;
        let mut inner = self.breaker.lock();
        let until = Instant::now() + wait;
        if let Some(open) = &mut inner.open {
            open.until = open.until.max(until);
            open.probing = false;
            return false;
        }
        tracing::warn!(wait_ms = wait.as_millis(), "the endpoint asks for a pause: the circuit is open");
        inner.open = Some(Open { since: Instant::now(), until, failed_probes: 0, probing: false });
        true
    }
}

/// Most openings that are remembered.
const MAX_OPENINGS: usize = 100;

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Some(BreakerConfig { failures: NonZeroU32::new(2).unwrap(), ..BreakerConfig::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_opens_probes_once_and_closes() {
        let breaker = breaker();
        breaker.pass().unwrap().failure(false);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.pass().unwrap().failure(false);
        assert!(matches!(breaker.state(), BreakerState::Open { .. }));
        assert!(breaker.pass().is_none());
        breaker.note_error("refused");
        let report = breaker.report("host:1".to_owned()).unwrap();
        assert_eq!((report.endpoint.as_str(), report.last_error.as_deref()), ("host:1", Some("refused")));

        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probe = breaker.pass().unwrap();
        assert!(breaker.pass().is_none(), "one probe at a time");
        probe.failure(false);
        assert!(breaker.pass().is_none());

        tokio::time::advance(Duration::from_secs(2)).await;
        drop(breaker.pass().unwrap());
        breaker.pass().expect("a dropped probe lets another through").success();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.report("host:1".to_owned()), None);
        assert!(breaker.pass().is_some() && breaker.pass().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_resets_the_count_and_a_certain_failure_opens_at_once() {
        let breaker = breaker();
        breaker.pass().unwrap().failure(false);
        breaker.pass().unwrap().success();
        breaker.pass().unwrap().failure(false);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.pass().unwrap().success();
        breaker.pass().unwrap().failure(true);
        assert!(breaker.pass().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn three_openings_in_five_minutes_are_flapping() {
        let breaker = breaker();
        for opening in 1..=3 {
            assert!(breaker.flapping().is_none());
            assert!(breaker.pass().unwrap().failure(true));
            tokio::time::advance(Duration::from_secs(1)).await;
            // A probe that fails is not another opening.
            assert!(opening > 1 || !breaker.pass().unwrap().failure(false));
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(breaker.pass().unwrap().success());
        }
        assert_eq!(breaker.flapping(), Some(3));
        tokio::time::advance(FLAP_WINDOW).await;
        assert_eq!(breaker.flapping(), None, "the openings are older than the window");
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_keeps_the_pause_that_the_endpoint_asks_for_also_without_a_configuration() {
        for breaker in [breaker(), Breaker::new(None)] {
            assert!(breaker.pass().unwrap().pause(Duration::from_secs(20)));
            tokio::time::advance(Duration::from_secs(19)).await;
            assert!(breaker.pass().is_none());
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(breaker.pass().unwrap().success());
            assert_eq!(breaker.flapping(), None, "a pause is no failure");
        }
        let off = Breaker::new(None);
        (0..100).for_each(|_| assert!(!off.pass().unwrap().failure(true)));
        assert_eq!(off.state(), BreakerState::Closed);
    }
}
