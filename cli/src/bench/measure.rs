//! Measures eventbox and the yardstick alternately, and computes the result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::Pool;

use super::cost::{Cost, count_statements};
use super::engine::{Counted, Engine, Sums};
use super::load::Values;
use super::place::Place;
use super::progress::Progress;
use super::scale::Scale;
use super::spec::{Better, Spec, Unit};

/// One measurement of one side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) figures: Vec<f64>,
    /// Whether each sent event was counted exactly once.
    pub(crate) verified: bool,
    /// Costs, only in the round that counts them.
    pub(crate) cost: Option<Cost>,
}

/// One line of the result, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: &'static str,
    pub(crate) variant: Option<&'static str>,
    pub(crate) engine: &'static str,
    pub(crate) unit: String,
    /// Median of the rounds, eventbox.
    pub(crate) ours: f64,
    /// Median of the rounds, yardstick.
    pub(crate) yardstick: f64,
    /// Ratio of eventbox to the yardstick. Above 1 eventbox is better, whatever the unit.
    pub(crate) ratio: f64,
    pub(crate) rounds: usize,
    pub(crate) verified: bool,
    pub(crate) cost: Costs,
}

/// The costs of 1,000 events on each side.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Costs {
    pub(crate) ours: Option<Cost>,
    pub(crate) yardstick: Option<Cost>,
}

/// A run on one engine.
pub(crate) struct Bench<'a, B: Engine> {
    pub(crate) place: &'a Place<B>,
    /// One connection for unmeasured work.
    pub(crate) admin: Pool<B>,
    pub(crate) scale: &'a Scale,
    pub(crate) progress: &'a Progress,
    costing: AtomicBool,
}

impl<'a, B: Engine> Bench<'a, B> {
    pub(crate) async fn new(place: &'a Place<B>, scale: &'a Scale, progress: &'a Progress) -> Result<Self> {
        Values::get();
        let admin = place.open(1, false).await?;
        eventbox::migrate(&admin).await?;
        B::create(&admin).await.context("create the tables of the yardsticks")?;
        Ok(Bench { place, admin, scale, progress, costing: AtomicBool::new(false) })
    }

    pub(crate) async fn clear(&self) -> Result<()> {
        B::clear(&self.admin).await.context("empty the tables")
    }

    /// Opens a pool with all its connections.
    pub(crate) async fn open(&self, connections: u32) -> Result<Pool<B>> {
        self.place.open(connections, self.costing.load(Ordering::Relaxed)).await
    }

    /// Opens a pool for the yardstick, with one connection if the engine has one writer.
    pub(crate) async fn open_yardstick(&self, connections: u32) -> Result<Pool<B>> {
        self.open(if B::WRITES_ALONE { 1 } else { connections }).await
    }

    /// Starts the clock.
    pub(crate) async fn begin(&self) -> Result<Watch> {
        let costing = self.costing.load(Ordering::Relaxed);
        B::settle(&self.admin, costing).await.context("settle the tables")?;
        let before = match costing {
            true => Some(self.cost_so_far(self.counted().await?)),
            false => None,
        };
        count_statements(before.is_some());
        Ok(Watch { since: Instant::now(), before })
    }

    /// Stops the clock and closes the measured pools. Returns the seconds, and the costs of the events.
    pub(crate) async fn end(&self, watch: Watch, events: usize, pools: &[&Pool<B>]) -> Result<(f64, Option<Cost>)> {
        let seconds = watch.since.elapsed().as_secs_f64();
        count_statements(false);
        let at_end = self.cost_so_far(Counted::default());
        for pool in pools {
            pool.close().await;
        }
        let Some(before) = watch.before else { return Ok((seconds, None)) };
        B::until_alone(&self.admin).await.context("wait for connections to close")?;
        Ok((seconds, Some(Cost { counted: self.counted().await?, ..at_end }.since(before, events))))
    }

    async fn counted(&self) -> Result<Counted> {
        B::counted(&self.admin).await.context("read the counters of the database")
    }

    fn cost_so_far(&self, counted: Counted) -> Cost {
        Cost { counted, ..Cost::so_far(self.place.postmaster) }
    }

    /// Measures both sides alternately and counts the costs in the first round. Returns one line for each figure.
    pub(crate) async fn compare(
        &self,
        spec: &Spec,
        ours: impl AsyncFn(&Self) -> Result<Sample>,
        yardstick: impl AsyncFn(&Self) -> Result<Sample>,
    ) -> Result<Vec<Line>> {
        let (mut our_samples, mut yardstick_samples) = (Vec::new(), Vec::new());
        for number in 0..self.scale.all_rounds() {
            self.costing.store(number == 0, Ordering::Relaxed);
            let round = number + usize::from(!self.scale.warm_up);
            self.progress.at(spec, B::ID, round, "eventbox");
            our_samples.push(ours(self).await.with_context(|| format!("{} on {}: eventbox", spec.workload, B::ID))?);
            self.progress.at(spec, B::ID, round, "yardstick");
            yardstick_samples
                .push(yardstick(self).await.with_context(|| format!("{} on {}: yardstick", spec.workload, B::ID))?);
        }
        self.costing.store(false, Ordering::Relaxed);
        Ok(lines(spec, B::ID, self.scale.rounds, &our_samples, &yardstick_samples))
    }

    /// Measures one side and two yardsticks in turn. Returns the lines against each yardstick.
    pub(crate) async fn compare_two(
        &self,
        specs: [&Spec; 2],
        ours: impl AsyncFn(&Self) -> Result<Sample>,
        one: impl AsyncFn(&Self) -> Result<Sample>,
        other: impl AsyncFn(&Self) -> Result<Sample>,
    ) -> Result<Vec<Line>> {
        let [spec, other_spec] = specs;
        let others = std::cell::RefCell::new(Vec::new());
        let ours_kept = std::cell::RefCell::new(Vec::new());
        let our_side = async |bench: &Self| -> Result<Sample> {
            let sample = ours(bench).await?;
            ours_kept.borrow_mut().push(sample.clone());
            Ok(sample)
        };
        let both = async |bench: &Self| -> Result<Sample> {
            let sample = one(bench).await?;
            let second = other(bench).await.with_context(|| format!("{:?}", other_spec.variant))?;
            others.borrow_mut().push(second);
            Ok(sample)
        };
        let mut both = self.compare(spec, our_side, both).await?;
        both.extend(lines(other_spec, B::ID, self.scale.rounds, &ours_kept.take(), &others.take()));
        Ok(both)
    }
}

/// A running clock.
pub(crate) struct Watch {
    pub(crate) since: Instant,
    before: Option<Cost>,
}

impl Sums {
    /// Returns whether exactly `events` were counted and none is left.
    pub(crate) fn are(self, events: usize) -> bool {
        self.left == 0 && usize::try_from(self.counted) == Ok(events)
    }
}

impl Sample {
    /// Returns the rate of `events`.
    pub(crate) fn rate(events: usize, (seconds, cost): (f64, Option<Cost>), verified: bool) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "there are some millions of events at most")]
        let rate = events as f64 / seconds.max(1e-9);
        Sample { figures: vec![rate], verified, cost }
    }
}

/// Returns the median of the numbers: the mean of the middle two for an even count, 0 without numbers.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (Some(only), _) => *only,
        (None, _) => 0.0,
    }
}

/// Returns how many times better than the yardstick eventbox is, or 0 if the yardstick has no figure.
pub(crate) fn ratio(ours: f64, yardstick: f64, better: Better) -> f64 {
    let (over, under) = match better {
        Better::High => (ours, yardstick),
        Better::Low => (yardstick, ours),
    };
    if under > 0.0 { over / under } else { 0.0 }
}

/// Builds the lines. The first sample of each side has the costs. The last samples, one for each timed round, have
/// the figures.
fn lines(spec: &Spec, engine: &'static str, rounds: usize, ours: &[Sample], yardstick: &[Sample]) -> Vec<Line> {
    let first_cost = |samples: &[Sample]| samples.first().and_then(|sample| sample.cost);
    let cost = Costs { ours: first_cost(ours), yardstick: first_cost(yardstick) };
    let figures = |samples: &[Sample], place: usize| {
        let timed = samples.iter().skip(samples.len().saturating_sub(rounds));
        median(timed.filter_map(|sample| sample.figures.get(place).copied()))
    };
    let line = |(place, unit): (usize, &Unit)| {
        let (our, theirs) = (figures(ours, place), figures(yardstick, place));
        Line {
            workload: spec.workload,
            variant: spec.variant,
            engine,
            unit: unit.text.clone(),
            ours: our,
            yardstick: theirs,
            ratio: ratio(our, theirs, unit.better),
            rounds,
            verified: ours.iter().chain(yardstick).all(|sample| sample.verified),
            cost,
        }
    };
    spec.units.iter().enumerate().map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([7.0]), 7.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 100.0, 2.0]), 3.0);
    }

    #[test]
    fn a_ratio_above_one_is_faster() {
        assert_eq!(ratio(200.0, 100.0, Better::High), 2.0);
        assert_eq!(ratio(2.0, 8.0, Better::Low), 4.0);
        assert_eq!(ratio(1.0, 0.0, Better::High), 0.0);
        assert_eq!(ratio(0.0, 1.0, Better::Low), 0.0);
    }

    #[test]
    fn a_line_has_the_medians_of_the_rounds_without_the_first() {
        let spec = Spec { workload: "W4", variant: None, units: vec![Unit::low("p50 ms"), Unit::high("events/s")] };
        let sample = |figures: [f64; 2], verified| Sample { figures: figures.into(), verified, cost: None };
        let ours = [[900.0, 900.0], [1.0, 10.0], [2.0, 20.0], [3.0, 60.0]].map(|figures| sample(figures, true));
        let yardstick = [[0.0, 0.0], [4.0, 4.0], [5.0, 5.0], [4.0, 4.0]].map(|figures| sample(figures, true));
        let both = lines(&spec, "sqlite", 3, &ours, &yardstick);
        let figures: Vec<_> = both.iter().map(|line| (line.ours, line.yardstick, line.ratio)).collect();
        assert_eq!(figures, [(2.0, 4.0, 2.0), (20.0, 4.0, 5.0)]);
        assert!(both.iter().all(|line| line.rounds == 3 && line.verified));
        let cold = lines(&spec, "sqlite", 1, &ours[..1], &yardstick[3..]);
        assert_eq!(cold.first().map(|line| (line.ours, line.yardstick)), Some((900.0, 4.0)), "the only round is timed");

        let unverified = [sample([1.0, 1.0], false), sample([1.0, 1.0], true)];
        assert!(!lines(&spec, "sqlite", 1, &unverified, &yardstick).first().unwrap().verified, "every sum counts");
    }

    #[test]
    fn sums_are_exact() {
        assert!(Sums { counted: 5, left: 0 }.are(5));
        assert!(!Sums { counted: 4, left: 1 }.are(5));
        assert!(!Sums { counted: 6, left: 0 }.are(5));
        assert!(!Sums { counted: 5, left: 1 }.are(5));
    }
}
