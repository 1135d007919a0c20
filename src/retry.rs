//! Pauses before retries: each is twice the last one, with jitter, so that processes do not retry in step.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Most doublings of a pause; more failures do not make it longer.
#[cfg(any(feature = "emitter", feature = "runtime"))]
const MAX_DOUBLINGS: u32 = 30;

/// Returns `retries` pauses. Each is between its step and twice that; the first step is `first`, and every next one is
/// twice the last.
pub(crate) fn pauses(first: Duration, retries: usize) -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(first).with_max_times(retries).with_jitter().build()
}

/// Returns pauses without end. Each is between half of its step and all of it. The first step is `first`, every next
/// one is twice the last, and none is longer than `longest`.
pub(crate) fn endless_pauses(first: Duration, longest: Duration) -> ExponentialBackoff {
    // `backon` adds up to a step to each step.
    let steps = ExponentialBuilder::new().with_min_delay(first.min(longest) / 2).with_max_delay(longest / 2);
    steps.without_max_times().with_jitter().build()
}

/// Returns the pause after `doublings` further failures: between half of its step and all of it. The first step is
/// `first`, every next one is twice the last, and none is longer than `longest`.
#[cfg(any(feature = "emitter", feature = "runtime"))]
pub(crate) fn pause_after(doublings: u32, first: Duration, longest: Duration) -> Duration {
    endless_pauses(first, longest).nth(usize::try_from(doublings.min(MAX_DOUBLINGS)).unwrap_or(0)).unwrap_or(longest)
}

#[cfg(all(test, any(feature = "emitter", feature = "runtime")))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_doubles_up_to_the_longest_one() {
        for (doublings, step) in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60), (u32::MAX, 60)] {
            let pause = pause_after(doublings, SECOND, 60 * SECOND);
            assert!(step * SECOND / 2 <= pause && pause <= step * SECOND, "{doublings}: {pause:?}");
        }
        assert!(pause_after(0, 60 * SECOND, SECOND) <= SECOND, "the longest pause bounds also the first one");
        assert!(pause_after(9, SECOND, Duration::MAX) <= 512 * SECOND);
        assert!(pause_after(0, Duration::MAX, Duration::MAX) > SECOND);
    }

    #[test]
    fn retries_are_counted() {
        let steps: Vec<Duration> = pauses(SECOND, 3).collect();
        let in_step = |(pause, step): (&Duration, u32)| step * SECOND <= *pause && *pause <= 2 * step * SECOND;
        assert!(steps.len() == 3 && steps.iter().zip([1, 2, 4]).all(in_step), "{steps:?}");
    }
}
