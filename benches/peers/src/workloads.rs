//! The workloads, with the sizes and names of `eventbox bench`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::event::recipients;
use crate::load;
use crate::peer::{Handled, Order, Session, Spread};
use crate::place::Place;
use crate::scale::Scale;
use crate::states::{self, Sums};

/// Number of recipients of emits and of W4.
const RECIPIENTS: usize = 1_000;

/// Number of tasks of W1.
const EMITTERS: usize = 16;

/// Number of tasks of W2, and of events in each of their batches.
const BATCHERS: usize = 8;
const BATCH: usize = 500;

/// Number of producers of W3c, and of events in each of their batches.
const PRODUCERS: usize = 16;
const SMALL_BATCH: usize = 100;

/// Load of W4 in events a second.
const EVENTS_A_SECOND: u32 = 500;

/// Time limit for the last events of W4.
const HANDLED_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two looks at the messages that are left in an outbox.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Time limit for the stop of a peer.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    #[value(name = "W1")]
    W1,
    #[value(name = "W2")]
    W2,
    #[value(name = "W3")]
    W3,
    #[value(name = "W3b")]
    W3b,
    #[value(name = "W3c")]
    W3c,
    #[value(name = "W4")]
    W4,
    #[value(name = "W5")]
    W5,
    #[value(name = "W5r")]
    W5r,
}

impl Workload {
    pub(crate) const ALL: [Workload; 8] = [
        Workload::W1,
        Workload::W2,
        Workload::W3,
        Workload::W3b,
        Workload::W3c,
        Workload::W4,
        Workload::W5,
        Workload::W5r,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::W1 => "W1",
            Workload::W2 => "W2",
            Workload::W3 => "W3",
            Workload::W3b => "W3b",
            Workload::W3c => "W3c",
            Workload::W4 => "W4",
            Workload::W5 => "W5",
            Workload::W5r => "W5r",
        }
    }

    /// Returns whether outboxes run it, and queues do not.
    pub(crate) fn is_of_outboxes(self) -> bool {
        matches!(self, Workload::W5 | Workload::W5r)
    }

    /// Returns the units of its figures.
    pub(crate) fn units(self) -> &'static [&'static str] {
        match self {
            Workload::W4 => &["ms, p50", "ms, p99"],
            _ => &["events/s"],
        }
    }

    fn spread(self) -> Spread {
        match self {
            Workload::W3c => Spread::Hot,
            _ => Spread::Many,
        }
    }
}

/// One measurement of a peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Figures, one for each unit of the workload.
    pub(crate) figures: Vec<f64>,
    /// Faults of the measurement.
    pub(crate) faults: Vec<String>,
}

/// Measures a peer once.
pub(crate) async fn measure(place: &Place, workload: Workload, order: Order, scale: &Scale) -> Result<Sample> {
    let session = place.peer.open(&place.url, order, workload.spread()).await?;
    session.clear().await?;
    let sample = match workload {
        Workload::W1 => single(place, &session, scale).await,
        Workload::W2 => batches(place, &session, scale).await,
        Workload::W3 => drain(place, &session, order, scale.drained, scale).await,
        Workload::W3b => drain(place, &session, order, (scale.singles, scale.singles), scale).await,
        Workload::W3c => hot(place, &session, scale).await,
        Workload::W4 => latency(place, &session, scale).await,
        Workload::W5 => published(place, &session, scale).await,
        Workload::W5r => backlog(place, &session, scale).await,
    };
    session.close().await;
    sample
}

fn rate(events: usize, elapsed: Duration) -> Vec<f64> {
    #[allow(clippy::cast_precision_loss, reason = "there are some millions of events at most")]
    let events = events as f64;
    vec![events / elapsed.as_secs_f64().max(1e-9)]
}

async fn single(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(RECIPIENTS));
    states::settle(&place.admin).await?;
    let since = Instant::now();
    let emitted = load::emit_for(session, &recipients, EMITTERS, scale.emit_for).await?;
    let figures = rate(emitted, since.elapsed());
    Ok(Sample { figures, faults: all_there(session, emitted).await? })
}

async fn batches(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(RECIPIENTS));
    states::settle(&place.admin).await?;
    let since = Instant::now();
    let until = Some(since + scale.cut_after);
    let emitted = load::emit_batches(session, &recipients, scale.batched, (BATCH, BATCHERS), until).await?;
    let figures = rate(emitted, since.elapsed());
    Ok(Sample { figures, faults: all_there(session, emitted).await? })
}

async fn all_there(session: &Arc<dyn Session>, emitted: usize) -> Result<Vec<String>> {
    let left = session.left().await?;
    Ok(if usize::try_from(left) == Ok(emitted) { Vec::new() } else { vec![format!("{left} of {emitted} are there")] })
}

async fn drain(
    place: &Place,
    session: &Arc<dyn Session>,
    order: Order,
    (events, count): (usize, usize),
    scale: &Scale,
) -> Result<Sample> {
    let recipients = Arc::new(recipients(count));
    states::reset(&place.admin, &recipients).await?;
    load::emit_batches(session, &recipients, events, (BATCH, 1), None).await?;
    states::settle(&place.admin).await?;
    let handled = Handled::new(false, events);
    let since = Instant::now();
    let consumer = session.consume(Arc::clone(&handled)).await?;
    let done = handled.all(scale.cut_after).await;
    let (count, elapsed) = (handled.count(), since.elapsed());
    stop(consumer).await?;
    let mut faults = faults(place, session, &handled, events).await?;
    if !done {
        faults.push(cut(count, events, elapsed));
    }
    let disorder = states::sums(&place.admin).await?.disorder;
    if order == Order::PerKey && disorder > 0 {
        faults.push(format!("out of order {disorder} times"));
    }
    Ok(Sample { figures: rate(count, elapsed), faults })
}

async fn hot(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(1));
    states::reset(&place.admin, &recipients).await?;
    states::settle(&place.admin).await?;
    let handled = Handled::new(false, usize::MAX);
    let since = Instant::now();
    let until = since + scale.cut_after;
    let consumer = session.consume(Arc::clone(&handled)).await?;
    let emitted = load::emit_batches(session, &recipients, scale.hot, (SMALL_BATCH, PRODUCERS), Some(until)).await?;
    handled.want(emitted);
    let done = handled.all(until.saturating_duration_since(Instant::now())).await;
    let (count, elapsed) = (handled.count(), since.elapsed());
    stop(consumer).await?;
    let mut faults = faults(place, session, &handled, emitted).await?;
    if !done || emitted < scale.hot {
        faults.push(cut(count, scale.hot, elapsed));
    }
    Ok(Sample { figures: rate(count, elapsed), faults })
}

async fn latency(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(RECIPIENTS));
    states::reset(&place.admin, &recipients).await?;
    states::settle(&place.admin).await?;
    let handled = Handled::new(true, usize::MAX);
    let consumer = session.consume(Arc::clone(&handled)).await?;
    let sent = load::emit_steadily(session, &recipients, EVENTS_A_SECOND, scale.latency_for).await?;
    handled.want(sent);
    let done = handled.all(HANDLED_WITHIN).await;
    stop(consumer).await?;
    let mut faults = faults(place, session, &handled, sent).await?;
    let mut latencies = handled.latencies();
    latencies.sort_unstable();
    if !done {
        faults.push(format!("{} of {sent} handled within {HANDLED_WITHIN:?}", latencies.len()));
    }
    Ok(Sample { figures: vec![percentile_ms(&latencies, 50), percentile_ms(&latencies, 99)], faults })
}

/// Messages of transactions that also count, until they are received and their rows are done.
async fn published(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(RECIPIENTS));
    states::reset(&place.admin, &recipients).await?;
    states::settle(&place.admin).await?;
    let handled = Handled::new(false, usize::MAX);
    let since = Instant::now();
    let until = since + scale.cut_after;
    let consumer = session.consume(Arc::clone(&handled)).await?;
    let emitted = load::emit_batches(session, &recipients, scale.published, (BATCH, 1), Some(until)).await?;
    handled.want(emitted);
    delivered(place, session, (consumer, &handled), (emitted, scale.published), (since, until)).await
}

/// Messages that wait, until they are received and their rows are done.
async fn backlog(place: &Place, session: &Arc<dyn Session>, scale: &Scale) -> Result<Sample> {
    let recipients = Arc::new(recipients(RECIPIENTS));
    states::reset(&place.admin, &recipients).await?;
    let emitted = load::emit_batches(session, &recipients, scale.backlog, (BATCH, BATCHERS), None).await?;
    states::settle(&place.admin).await?;
    let handled = Handled::new(false, emitted);
    let since = Instant::now();
    let until = since + scale.cut_after;
    let consumer = session.consume(Arc::clone(&handled)).await?;
    delivered(place, session, (consumer, &handled), (emitted, scale.backlog), (since, until)).await
}

/// Waits until all messages are received and their rows are done.
async fn delivered(
    place: &Place,
    session: &Arc<dyn Session>,
    (consumer, handled): (Box<dyn crate::peer::Consumer>, &Arc<Handled>),
    (emitted, wanted): (usize, usize),
    (since, until): (Instant, Instant),
) -> Result<Sample> {
    let mut done = handled.all(until.saturating_duration_since(Instant::now())).await && emitted == wanted;
    while done && session.left().await? > 0 {
        tokio::time::sleep(LOOK_EVERY).await;
        done = Instant::now() < until;
    }
    let (count, elapsed) = (handled.count(), since.elapsed());
    stop(consumer).await?;
    let (sums, left) = (states::sums(&place.admin).await?, usize::try_from(session.left().await?)?);
    let mut faults: Vec<String> = handled.take_fault().into_iter().collect();
    if usize::try_from(sums.counted)? != emitted || handled.count() + left < emitted {
        faults.push(format!("{} counted, {} received and {left} left of {emitted}", sums.counted, handled.count()));
    }
    if !done {
        faults.push(cut(count, wanted, elapsed));
    }
    Ok(Sample { figures: rate(count, elapsed), faults })
}

async fn stop(consumer: Box<dyn crate::peer::Consumer>) -> Result<()> {
    tokio::time::timeout(STOP_DEADLINE, consumer.stop()).await?
}

fn cut(handled: usize, of: usize, elapsed: Duration) -> String {
    format!("{handled} of {of} when cut after {:.0} s", elapsed.as_secs_f64())
}

/// Returns the faults in the sums, and the first error of a handler.
async fn faults(place: &Place, session: &Arc<dyn Session>, handled: &Handled, emitted: usize) -> Result<Vec<String>> {
    let (sums, left) = (states::sums(&place.admin).await?, session.left().await?);
    let mut faults = sum_faults(sums, left, i64::try_from(emitted)?);
    faults.extend(handled.take_fault());
    Ok(faults)
}

/// Returns a fault unless every event is counted or still in the queue.
fn sum_faults(sums: Sums, left: i64, emitted: i64) -> Vec<String> {
    if sums.counted > emitted {
        return vec![format!("{} counted twice", sums.counted - emitted)];
    }
    match sums.counted + left - emitted {
        0 => Vec::new(),
        more if more > 0 => vec![format!("{more} counted and still queued")],
        less => vec![format!("{} lost", -less)],
    }
}

/// Returns the percentile of the sorted latencies in milliseconds.
fn percentile_ms(sorted_us: &[u64], percent: usize) -> f64 {
    let place = (sorted_us.len() * percent).div_ceil(100).saturating_sub(1);
    #[allow(clippy::cast_precision_loss, reason = "microseconds of some seconds")]
    sorted_us.get(place).map_or(0.0, |us| *us as f64 / 1e3)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_latencies_that_were_seen() {
        let latencies: Vec<u64> = (1..=200).map(|ms| ms * 1_000).collect();
        assert_eq!((percentile_ms(&latencies, 50), percentile_ms(&latencies, 99)), (100.0, 198.0));
        assert_eq!(percentile_ms(&[], 50), 0.0);
    }

    #[test]
    fn lost_and_doubled_events_are_faults() {
        let sums = |counted| Sums { counted, disorder: 0 };
        assert!(sum_faults(sums(7), 3, 10).is_empty());
        assert_eq!(sum_faults(sums(7), 2, 10), ["1 lost"]);
        assert_eq!(sum_faults(sums(12), 0, 10), ["2 counted twice"]);
        assert_eq!(sum_faults(sums(9), 2, 10), ["1 counted and still queued"]);
    }
}
