//! The breakers of a peer: one of each stream, and one of the whole flow. Sending is allowed while none of them is
//! open.
//!
//! They are apart from an operator's pause, which a breaker never ends.

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::chip::client::breaker::{Breaker, Pass};
use crate::chip::{BreakerConfig, BreakerState};
use crate::peer::declare::limits::PeerLimits;
use crate::peer::metrics::PeerMetrics;

/// Interval at which a stream asks whether an open breaker lets a probe through.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The breaker of a whole peer, which opens when many streams die within a short time.
#[derive(Debug)]
pub(in crate::peer) struct Flow {
    breaker: Breaker,
    most_dead: NonZeroUsize,
    within: Duration,
    dead: Mutex<VecDeque<Instant>>,
    metrics: PeerMetrics,
}

/// The breaker of a stream, beside that of its peer.
#[derive(Debug, Clone)]
pub(in crate::peer) struct StreamBreaker(Breaker);

/// Permission to send one batch.
#[derive(Debug)]
pub(in crate::peer) struct Passes {
    stream: Pass,
    flow: Pass,
}

fn breaker(failures: usize, limits: &PeerLimits) -> Breaker {
    let failures = u32::try_from(failures).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    let config = BreakerConfig::default().with_failures(failures);
    Breaker::new(Some(config.with_cool_down(limits.cool_down.0).with_max_cool_down(limits.cool_down.1)))
}

impl StreamBreaker {
    pub(in crate::peer) fn new(limits: &PeerLimits) -> Self {
        StreamBreaker(breaker(limits.stream_failures.get(), limits))
    }

    pub(in crate::peer) fn is_open(&self) -> bool {
        self.0.state() != BreakerState::Closed
    }
}

impl Flow {
    pub(in crate::peer) fn new(limits: &PeerLimits, metrics: PeerMetrics) -> Self {
        Flow {
            // One failure opens it: this count of dead streams, or an event for which no stream is registered.
            breaker: breaker(1, limits),
            most_dead: limits.dead_streams,
            within: limits.dead_within,
            dead: Mutex::default(),
            metrics,
        }
    }

    pub(in crate::peer) fn is_open(&self) -> bool {
        self.breaker.state() != BreakerState::Closed
    }

    /// Waits until no breaker forbids to send. Cancel safe.
    pub(in crate::peer) async fn pass(&self, stream: &StreamBreaker) -> Passes {
        loop {
            if let Some(of_stream) = stream.0.pass()
                && let Some(of_flow) = self.breaker.pass()
            {
                return Passes { stream: of_stream, flow: of_flow };
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Notes a delivered batch.
    pub(in crate::peer) fn succeeded(&self, passes: Passes) {
        if passes.stream.success() {
            self.metrics.transition("stream", "closed");
        }
        if passes.flow.success() {
            self.metrics.transition("flow", "closed");
        }
    }

    /// Notes a batch that was not delivered. It counts for the stream alone: a slow stream stops no other.
    pub(in crate::peer) fn failed(&self, passes: Passes) {
        let is_probe = passes.flow.is_probe();
        if passes.stream.failure(false) {
            self.metrics.transition("stream", "open");
        }
        // A failed probe of the flow keeps it open.
        if is_probe {
            passes.flow.failure(false);
        }
    }

    /// Notes a stream that died. Many of them open the breaker of the flow.
    pub(in crate::peer) fn died(&self) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        dead.retain(|at| now.duration_since(*at) < self.within);
        dead.push_back(now);
        let opens = dead.len() >= self.most_dead.get();
        if opens {
            dead.clear();
        }
        drop(dead);
        if opens {
            self.trip();
        }
    }

    /// Opens the breaker of the flow.
    pub(in crate::peer) fn trip(&self) {
        if let Some(pass) = self.breaker.pass()
            && pass.failure(true)
        {
            self.metrics.transition("flow", "open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> (Flow, PeerLimits) {
        let number = |number| NonZeroUsize::new(number).unwrap();
        let limits = PeerLimits { dead_streams: number(3), stream_failures: number(2), ..PeerLimits::default() };
        (Flow::new(&limits, PeerMetrics::new("chat")), limits)
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_stream_stops_no_other() {
        let (flow, limits) = flow();
        let (bad, good) = (StreamBreaker::new(&limits), StreamBreaker::new(&limits));
        for _ in 0..2 {
            let passes = flow.pass(&bad).await;
            flow.failed(passes);
        }
        assert!(bad.is_open() && !good.is_open() && !flow.is_open());
        let began = Instant::now();
        let passes = flow.pass(&good).await;
        flow.succeeded(passes);
        assert_eq!(began.elapsed(), Duration::ZERO);
        let passes = flow.pass(&bad).await;
        assert!(began.elapsed() >= limits.cool_down.0 / 2, "the stream cools down");
        flow.succeeded(passes);
        assert!(!bad.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn many_dead_streams_open_the_flow_and_a_probe_closes_it() {
        let (flow, limits) = flow();
        flow.died();
        flow.died();
        tokio::time::advance(limits.dead_within).await;
        flow.died();
        assert!(!flow.is_open(), "not within the time");
        flow.died();
        flow.died();
        assert!(flow.is_open());
        let (one, other) = (StreamBreaker::new(&limits), StreamBreaker::new(&limits));
        let probe = flow.pass(&one).await;
        let waiting = tokio::time::timeout(Duration::from_secs(60), flow.pass(&other)).await;
        assert!(waiting.is_err(), "one stream probes for all");
        flow.succeeded(probe);
        assert!(!flow.is_open());
        let passes = flow.pass(&other).await;
        flow.succeeded(passes);
    }

    /// Case 16 of the acceptance cases: each peer has breakers of its own, and an open one stays open until it is
    /// healthy.
    #[tokio::test(start_paused = true)]
    async fn the_breakers_of_two_peers_are_apart() {
        let ((one, limits), (other, _)) = (flow(), flow());
        one.trip();
        let stream = StreamBreaker::new(&limits);
        let passes = other.pass(&stream).await;
        other.succeeded(passes);
        assert!(one.is_open() && !other.is_open(), "a success of the other one restores nothing here");
    }
}
