//! What a service asks of the turns of a kind.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// Longest [`KindRates::min_interval`], and longest time of a [`Rate`].
pub const MAX_RATE_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// Most key prefixes of a kind with rates of their own.
pub const MAX_RATE_PREFIXES: usize = 100;

/// Number of turns in a time, with a burst: a token bucket.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
/// use eventbox::runtime::Rate;
///
/// // 600 turns a minute, and no more than 20 of them at once.
/// let many = NonZeroU32::new(600).unwrap();
/// let rate = Rate::new(many, Duration::from_secs(60)).burst(NonZeroU32::new(20).unwrap());
/// # let _ = rate;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub(super) turns: NonZeroU32,
    pub(super) per: Duration,
    pub(super) burst: NonZeroU32,
}

impl Rate {
    /// Makes a rate of this number of turns in this time. The burst is as many turns.
    #[must_use]
    pub fn new(turns: NonZeroU32, per: Duration) -> Self {
        Rate { turns, per, burst: turns }
    }

    /// Sets the number of turns that may begin at once after a time without turns.
    #[must_use]
    pub fn burst(mut self, turns: NonZeroU32) -> Self {
        self.burst = turns;
        self
    }

    /// Returns the time for one turn, rounded up, so that the rate is never exceeded.
    pub(super) fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(self.turns.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn check(&self) -> Result<(), String> {
        if self.per.is_zero() {
            return Err("the time of a rate is zero: set it to more".to_owned());
        }
        if self.per > MAX_RATE_PERIOD {
            return Err(format!("the time of a rate is {:?}, over {MAX_RATE_PERIOD:?}", self.per));
        }
        Ok(())
    }
}

/// Bounds on the turns of a kind, for [`RuntimeBuilder::rates`](crate::runtime::RuntimeBuilder::rates). The default
/// bounds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KindRates {
    pub(super) min_interval: Option<Duration>,
    pub(super) max_concurrent: Option<NonZeroU32>,
    pub(super) rate: Option<Rate>,
    pub(super) prefixes: BTreeMap<String, Rate>,
}

impl KindRates {
    /// Makes bounds that bound nothing yet.
    #[must_use]
    pub fn new() -> Self {
        KindRates::default()
    }

    /// Sets the shortest time from the end of a committed turn of a recipient to the begin of its next one. The events
    /// that come meanwhile wait, and go into one turn, up to
    /// [`RuntimeConfig::max_events`](crate::runtime::RuntimeConfig::max_events): a longer eventbox takes several
    /// intervals. At most [`MAX_RATE_PERIOD`].
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = Some(interval);
        self
    }

    /// Sets the most turns of the kind at the same time, over all processes. Each recipient of a round counts as one.
    #[must_use]
    pub fn max_concurrent(mut self, turns: NonZeroU32) -> Self {
        self.max_concurrent = Some(turns);
        self
    }

    /// Sets the rate of the turns of the kind, over all processes.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets the rate of the turns of the recipients whose keys begin with a prefix, over all processes. Of several such
    /// prefixes the longest counts. The rate of the whole kind holds for these turns, too. At most
    /// [`MAX_RATE_PREFIXES`] prefixes.
    #[must_use]
    pub fn rate_of(mut self, prefix: impl Into<String>, rate: Rate) -> Self {
        self.prefixes.insert(prefix.into(), rate);
        self
    }

    /// Refuses bounds that cannot be kept, in words that say what to do.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.min_interval.is_some_and(|interval| interval.is_zero()) {
            return Err("min_interval is zero: set it to more, or leave it out".to_owned());
        }
        if let Some(interval) = self.min_interval.filter(|interval| *interval > MAX_RATE_PERIOD) {
            return Err(format!("min_interval is {interval:?}, over {MAX_RATE_PERIOD:?}"));
        }
        if self.prefixes.contains_key("") {
            return Err("a key prefix is empty: use the rate of the kind".to_owned());
        }
        if self.prefixes.len() > MAX_RATE_PREFIXES {
            return Err(format!("{} key prefixes have rates, over {MAX_RATE_PREFIXES}", self.prefixes.len()));
        }
        self.rate.iter().chain(self.prefixes.values()).try_for_each(Rate::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(turns: u32, per: Duration) -> Rate {
        Rate::new(NonZeroU32::new(turns).unwrap(), per)
    }

    #[test]
    fn bounds_that_cannot_be_kept_are_refused() {
        let second = Duration::from_secs(1);
        let too_long = MAX_RATE_PERIOD + Duration::from_nanos(1);
        let many = (0..=MAX_RATE_PREFIXES).map(|n| n.to_string());
        let refused = [
            KindRates::new().min_interval(Duration::ZERO),
            KindRates::new().min_interval(too_long),
            KindRates::new().rate(rate(1, Duration::ZERO)),
            KindRates::new().rate_of("a", rate(1, too_long)),
            KindRates::new().rate_of("", rate(1, second)),
            many.fold(KindRates::new(), |rates, prefix| rates.rate_of(prefix, rate(1, second))),
        ];
        for rates in refused {
            assert!(rates.check().is_err(), "{rates:?}");
        }
        let most = KindRates::new().min_interval(MAX_RATE_PERIOD).rate(rate(u32::MAX, MAX_RATE_PERIOD));
        assert_eq!(KindRates::new().check().and(most.check()), Ok(()));
    }

    #[test]
    fn the_time_of_a_turn_is_rounded_up() {
        assert_eq!(rate(3, Duration::from_nanos(10)).interval(), Duration::from_nanos(4));
        assert_eq!(rate(u32::MAX, Duration::from_nanos(1)).interval(), Duration::from_nanos(1));
    }
}
