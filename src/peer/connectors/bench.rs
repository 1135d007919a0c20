//! A source that makes events at a rate, and a sink that measures how old they are when they arrive.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use crate::clock;
use crate::peer::{Arrival, Connector, ConnectorError, EndReason, PeerError, Role, Session, StreamFacts};

/// Most events of one emit of [`Bench`].
pub const BENCH_TOGETHER: u64 = 100;

/// Longest pause of a source between two emits, which bounds how long a stop waits.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Buckets of a histogram for each doubling of the latency: an error of at most an eighth.
const BUCKETS_PER_DOUBLING: usize = 8;

/// Doublings from one microsecond: up to more than an hour.
const DOUBLINGS: usize = 32;

/// The settings of [`Bench`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::bench::BenchConfig;
///
/// let config = r#"{ "events": 1000, "per_second": 500, "pattern": "n={number}" }"#;
/// let config: BenchConfig = serde_json::from_str(config)?;
/// assert_eq!((config.events, config.per_second), (Some(1000), Some(500)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BenchConfig {
    /// Events to make; none: until the stop. With 0 the connector is a sink only.
    pub events: Option<u64>,
    /// Events a second; none: as fast as they are emitted.
    pub per_second: Option<u32>,
    /// Value of an event, in which `{number}` is replaced by its number.
    pub pattern: Option<String>,
    /// File whose lines are the values, again and again, in place of a pattern.
    pub file: Option<PathBuf>,
}

impl BenchConfig {
    /// Returns the settings of a sink that only measures.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::connectors::bench::BenchConfig;
    ///
    /// assert_eq!(BenchConfig::sink().events, Some(0));
    /// ```
    #[must_use]
    pub fn sink() -> Self {
        BenchConfig { events: Some(0), ..BenchConfig::default() }
    }
}

/// What the sink of a [`Bench`] has measured.
///
/// # Examples
///
/// See [`Bench`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct BenchReport {
    /// Events that the source has emitted.
    pub made: u64,
    /// Events that reached the sink.
    pub arrived: u64,
    /// Median of the time from the emit into the eventbox of the stream to the sink.
    pub p50: Duration,
    /// The same time, of the 99th of 100 events.
    pub p99: Duration,
    /// The longest such time.
    pub longest: Duration,
    /// Events a second that reached the sink, from the first to the last of them.
    pub per_second: f64,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchReport { made, arrived, p50, p99, longest, per_second } = self;
        write!(
            f,
            "made {made}, arrived {arrived} ({per_second:.0}/s), age p50 {p50:?}, p99 {p99:?}, longest {longest:?}"
        )
    }
}

/// A source and a sink for measurements.
///
/// The source emits its events on the stream, as any peer does. The sink acknowledges what is in the box of the stream,
/// and measures how long each event was on its way, by the clocks of both processes.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::bench::{Bench, BenchConfig};
///
/// let bench = Bench::new(BenchConfig::sink())?;
/// let meter = bench.meter(); // stays readable when the connector runs
/// assert_eq!(meter.report().arrived, 0);
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct Bench {
    config: BenchConfig,
    meter: BenchMeter,
}

/// The measurements of a [`Bench`]; cheap to clone.
///
/// # Examples
///
/// See [`Bench`].
#[derive(Debug, Clone, Default)]
pub struct BenchMeter(Arc<Mutex<Measured>>);

#[derive(Debug, Default)]
struct Measured {
    made: u64,
    arrived: u64,
    buckets: Vec<u64>,
    longest: Duration,
    span: Option<(Instant, Instant)>,
}

impl BenchMeter {
    /// Returns what was measured until now.
    #[must_use]
    pub fn report(&self) -> BenchReport {
        self.with(|measured| {
            let span = measured.span.map_or(Duration::ZERO, |(first, last)| last - first);
            let per_second = if span.is_zero() { 0.0 } else { measured.arrived as f64 / span.as_secs_f64() };
            BenchReport {
                made: measured.made,
                arrived: measured.arrived,
                p50: measured.quantile(1, 2),
                p99: measured.quantile(99, 100),
                longest: measured.longest,
                per_second,
            }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Measured) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Measured {
    fn arrived(&mut self, age: Duration, now: Instant) {
        self.arrived += 1;
        self.longest = self.longest.max(age);
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
        self.buckets.resize(BUCKETS_PER_DOUBLING * DOUBLINGS, 0);
        if let Some(count) = self.buckets.get_mut(bucket_of(age)) {
            *count += 1;
        }
    }

    /// Returns the upper end of the bucket below which `part` of `of` events are, but no more than the longest age.
    fn quantile(&self, part: u64, of: u64) -> Duration {
        let wanted = (self.arrived * part).div_ceil(of);
        let mut below = 0;
        let at = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        });
        at.map_or(Duration::ZERO, |bucket| end_of(bucket).min(self.longest))
    }
}

fn bucket_of(age: Duration) -> usize {
    let us = age.as_secs_f64() * 1e6;
    let bucket = (us.max(1.0).log2() * BUCKETS_PER_DOUBLING as f64) as usize;
    bucket.min(BUCKETS_PER_DOUBLING * DOUBLINGS - 1)
}

fn end_of(bucket: usize) -> Duration {
    Duration::from_secs_f64(2_f64.powf((bucket + 1) as f64 / BUCKETS_PER_DOUBLING as f64) / 1e6)
}

impl Bench {
    /// Makes a source and sink.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when the rate is 0, both a pattern and a file are set, or the file has no line.
    pub fn new(config: BenchConfig) -> Result<Self, PeerError> {
        let refused = |problem: &str| Err(PeerError::setup("bench", problem));
        if config.per_second == Some(0) {
            return refused("`per_second` must not be 0");
        }
        if config.pattern.is_some() && config.file.is_some() {
            return refused("set `pattern` or `file`, and not both");
        }
        Ok(Bench { config, meter: BenchMeter::default() })
    }

    /// Returns the measurements, which go on when the connector runs.
    #[must_use]
    pub fn meter(&self) -> BenchMeter {
        self.meter.clone()
    }

    async fn values(&self) -> Result<Values, ConnectorError> {
        let Some(path) = self.config.file.clone() else {
            return Ok(Values::Pattern(self.config.pattern.clone().unwrap_or_else(|| "{number}".to_owned())));
        };
        let attempt = format!("read {}", path.display());
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let content = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let content = Bytes::from(content.map_err(|error| ConnectorError::connect(attempt, error))?);
        let lines: Vec<Bytes> = content
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| content.slice_ref(line))
            .collect();
        if lines.is_empty() {
            return Err(ConnectorError::refused("the file of the bench has no line"));
        }
        Ok(Values::Lines(lines))
    }

    fn left(&self) -> u64 {
        let made = self.meter.with(|measured| measured.made);
        self.config.events.unwrap_or(u64::MAX).saturating_sub(made)
    }

    /// Returns how many events are due now, and the pause until the next ones.
    fn due(&self, began: Instant, made: u64) -> (u64, Duration) {
        let left = self.left().min(BENCH_TOGETHER);
        let Some(rate) = self.config.per_second else { return (left, Duration::ZERO) };
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let next = Duration::from_secs_f64(1.0 / f64::from(rate)).min(LONGEST_PAUSE);
        (due.saturating_sub(made).min(left), next)
    }
}

enum Values {
    Pattern(String),
    Lines(Vec<Bytes>),
}

impl Values {
    fn of(&self, number: u64) -> Bytes {
        match self {
            Values::Pattern(pattern) => pattern.replace("{number}", &number.to_string()).into(),
            Values::Lines(lines) => {
                let at = usize::try_from(number.saturating_sub(1)).unwrap_or(0) % lines.len().max(1);
                lines.get(at).cloned().unwrap_or_default()
            }
        }
    }
}

#[async_trait]
impl Connector for Bench {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn endpoint(&self) -> String {
        "this process".to_owned()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let values = self.values().await?;
        session.connected();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        let (began, mut made, stopping) = (Instant::now(), 0, session.stopping());
        let mut next_at = began;
        loop {
            tokio::select! {
                batch = stream.outgoing.next() => {
                    let Some(batch) = batch else { break };
                    let (now, at) = (clock::now(), Instant::now());
                    self.meter.with(|measured| {
                        for event in batch.events() {
                            let age = now.duration_since(event.event.id().emitted_at()).unwrap_or_default();
                            measured.arrived(age, at);
                        }
                    });
                    stream.outgoing.ack(batch);
                }
                () = tokio::time::sleep_until(next_at), if self.left() > 0 && !stopping.is_cancelled() => {
                    let (due, pause) = self.due(began, made);
                    next_at = Instant::now() + pause;
                    if due > 0 {
                        let first = self.meter.with(|measured| measured.made);
                        let arrivals = (1..=due).map(|number| Arrival::value(values.of(first + number))).collect();
                        stream.incoming.receive_all(arrivals).await?;
                        made += due;
                        self.meter.with(|measured| measured.made += due);
                    }
                }
            }
        }
        tracing::info!(peer = session.peer(), report = %self.meter.report(), "bench");
        Ok(stream.end(EndReason::Stopped).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_an_eighth() {
        let meter = BenchMeter::default();
        meter.with(|measured| {
            for ms in 1..=1_000 {
                measured.arrived(Duration::from_millis(ms), Instant::now());
            }
        });
        let report = meter.report();
        assert_eq!((report.arrived, report.longest), (1_000, Duration::from_secs(1)));
        let near = |found: Duration, wanted: f64| (found.as_secs_f64() / wanted - 1.0).abs() < 0.125;
        assert!(near(report.p50, 0.5) && near(report.p99, 0.99), "{report}");
        assert_eq!(BenchMeter::default().report(), BenchReport::default());
    }

    #[test]
    fn values_come_from_a_pattern_or_from_lines() {
        let lines = Values::Lines(vec!["a".into(), "b".into()]);
        assert_eq!([1, 2, 3].map(|number| lines.of(number)), ["a", "b", "a"]);
        assert_eq!(Values::Pattern("n={number}".to_owned()).of(7), "n=7");
    }
}
