//! Runs the peers alternately and computes the result.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::ours::{OurLine, Ours};
use crate::peer::Order;
use crate::place::Place;
use crate::scale::Scale;
use crate::workloads::{Sample, Workload, measure};

/// One figure of one peer, as `--json` prints it. `null` means that the peer does not support the workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: String,
    /// Required order. `None` for eventbox, which always keeps the order.
    pub(crate) order: Option<Order>,
    pub(crate) peer: String,
    pub(crate) variant: Option<String>,
    pub(crate) unit: String,
    /// Median of the rounds.
    pub(crate) figure: Option<f64>,
    pub(crate) rounds: usize,
    /// Whether every event was counted once and in the required order, and no round was cut.
    pub(crate) verified: bool,
    /// Faults of all rounds.
    pub(crate) faults: Vec<String>,
}

const ORDERS: [Order; 2] = [Order::PerKey, Order::Any];

/// Measures a workload: eventbox first, then the peers alternately.
pub(crate) async fn workload(
    places: &[Place],
    ours: &Ours,
    workload: Workload,
    orders: &[Order],
    scale: &Scale,
) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = ours.measure(workload).await?.iter().flat_map(our_lines).collect();
    let mut measured: Vec<(&Place, Order, Vec<Sample>)> = Vec::new();
    for order in ORDERS.into_iter().filter(|order| orders.is_empty() || orders.contains(order)) {
        // No outbox keeps an order.
        if workload.is_of_outboxes() && order == Order::PerKey {
            continue;
        }
        measured.extend(places.iter().map(|place| (place, order, Vec::new())));
    }
    for round in 0..scale.rounds + usize::from(scale.warm_up) {
        let can = |place: &Place, order| place.peer.is_outbox() == workload.is_of_outboxes() && place.peer.can(order);
        for (place, order, samples) in measured.iter_mut().filter(|(place, order, _)| can(place, *order)) {
            let since = Instant::now();
            let sample = measure(place, workload, *order, scale)
                .await
                .unwrap_or_else(|error| Sample { figures: Vec::new(), faults: vec![format!("failed: {error:#}")] });
            let progress = format!("round {round}: {} {order:?} {}", workload.name(), place.peer.name());
            say(&format!("{progress}: {:.1?} {} in {:.1?}", sample.figures, sample.faults.join("; "), since.elapsed()));
            if round > 0 || !scale.warm_up {
                samples.push(sample);
            }
        }
    }
    for (place, order, samples) in measured {
        lines.extend(peer_lines(workload, order, place.peer.name(), &samples));
    }
    Ok(lines)
}

/// Converts a line of eventbox into the lines of eventbox and of plain SQL.
fn our_lines(line: &OurLine) -> [Line; 2] {
    let of = |peer: &str, variant: Option<String>, figure| Line {
        workload: line.workload.clone(),
        order: None,
        peer: peer.to_owned(),
        variant,
        unit: line.unit.clone(),
        figure: Some(figure),
        rounds: line.rounds,
        verified: line.verified,
        faults: if line.verified { Vec::new() } else { vec!["a sum is wrong".to_owned()] },
    };
    [of("eventbox", line.variant.clone(), line.ours), of("plain SQL", line.variant.clone(), line.yardstick)]
}

fn peer_lines(workload: Workload, order: Order, peer: &str, samples: &[Sample]) -> Vec<Line> {
    let mut faults: Vec<String> = samples.iter().flat_map(|sample| sample.faults.clone()).collect();
    faults.dedup();
    let line = |(place, unit): (usize, &&'static str)| {
        let figures: Vec<f64> = samples.iter().filter_map(|sample| sample.figures.get(place).copied()).collect();
        Line {
            workload: workload.name().to_owned(),
            order: Some(order),
            peer: peer.to_owned(),
            variant: None,
            unit: (*unit).to_owned(),
            rounds: figures.len(),
            verified: !figures.is_empty() && faults.is_empty(),
            figure: median(figures),
            faults: faults.clone(),
        }
    };
    workload.units().iter().enumerate().map(line).collect()
}

/// Returns the median of the numbers: the mean of the middle two for an even count.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let upper = *numbers.get(middle)?;
    match middle.checked_sub(1).and_then(|below| numbers.get(below)) {
        Some(lower) if numbers.len().is_multiple_of(2) => Some(f64::midpoint(*lower, upper)),
        _ => Some(upper),
    }
}

/// Prints a line on standard error. A closed standard error is ignored.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 100.0, 2.0]), Some(3.0));
    }

    #[test]
    fn what_a_peer_cannot_do_has_no_figure() {
        let lines = peer_lines(Workload::W4, Order::PerKey, "a", &[]);
        assert_eq!(lines.iter().map(|line| (line.figure, line.verified)).collect::<Vec<_>>(), [(None, false); 2]);
    }

    #[test]
    fn a_fault_of_one_round_is_reported() {
        let good = Sample { figures: vec![10.0], faults: vec![] };
        let bad = Sample { figures: vec![20.0], faults: vec!["1 lost".to_owned()] };
        let lines = peer_lines(Workload::W1, Order::Any, "a", &[good.clone(), bad, good]);
        assert_eq!((lines[0].figure, lines[0].verified, lines[0].rounds), (Some(10.0), false, 3));
        assert_eq!(lines[0].faults, ["1 lost"]);
    }
}
