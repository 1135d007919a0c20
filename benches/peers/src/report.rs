//! The table of eventbox and its peers.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::peer::Order;
use crate::run::Line;

/// Headers of the columns before those of the peers.
const OURS: [&str; 2] = ["eventbox", "plain SQL"];

pub(crate) fn table(lines: &[Line], peers: &[&str]) -> String {
    let mut table = Table::new();
    let header = ["workload", "order", "unit"].into_iter().chain(OURS).chain(peers.iter().copied());
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut notes = Vec::new();
    let mut told: Vec<(&str, Order, &str)> = Vec::new();
    for line in lines {
        let Some(order) = line.order else { continue };
        let row = (line.workload.as_str(), order, line.unit.as_str());
        if told.contains(&row) {
            continue;
        }
        told.push(row);
        let mut cells = vec![row.0.to_owned(), name(order).to_owned(), row.2.to_owned()];
        cells.extend(OURS.map(|ours| our_cell(lines, ours, row.0, row.2)));
        cells.extend(peers.iter().map(|peer| {
            let is_it = |line: &&Line| {
                (line.workload.as_str(), line.order, line.unit.as_str()) == (row.0, Some(order), row.2)
                    && line.peer == *peer
            };
            lines.iter().find(is_it).map_or_else(|| "-".to_owned(), |line| cell(line, &mut notes))
        }));
        table.add_row(cells);
    }
    let mut text = table.to_string();
    text.push_str("\n\nMedians of the rounds. -: a peer cannot do that; README.md says why, and what each guarantees.");
    for (number, note) in notes.iter().enumerate() {
        text.push_str(&format!("\n[{}] {note}", number + 1));
    }
    text
}

fn name(order: Order) -> &'static str {
    match order {
        Order::PerKey => "per key",
        Order::Any => "any",
    }
}

/// Returns the eventbox figures of all variants. They stand in both rows, because eventbox always keeps the order.
fn our_cell(lines: &[Line], ours: &str, workload: &str, unit: &str) -> String {
    // The peers have no latencies across processes.
    let is_it = |line: &&Line| {
        line.peer == ours
            && line.workload == workload
            && line.unit.starts_with(unit)
            && !line.unit.ends_with("across two processes")
    };
    let mut figures = Vec::new();
    for line in lines.iter().filter(is_it) {
        let figure = line.figure.map_or_else(|| "-".to_owned(), number);
        figures.push(match &line.variant {
            Some(variant) => format!("{figure} {variant}"),
            None => figure,
        });
    }
    if figures.is_empty() { "-".to_owned() } else { figures.join("\n") }
}

fn cell(line: &Line, notes: &mut Vec<String>) -> String {
    let figure = line.figure.map_or_else(|| "-".to_owned(), number);
    if line.faults.is_empty() {
        return figure;
    }
    let order = line.order.map_or("", name);
    let note = format!("{} {order}, {}: {}", line.workload, line.peer, line.faults.join("; "));
    let place = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("{figure} [{}]", place + 1)
}

/// Formats a number with at least three digits, and with separators from 1,000.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(peer: &str, order: Option<Order>, figure: Option<f64>, faults: &[&str]) -> Line {
        Line {
            workload: "W1".to_owned(),
            order,
            peer: peer.to_owned(),
            variant: None,
            unit: "events/s".to_owned(),
            figure,
            rounds: 3,
            verified: faults.is_empty(),
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 12.34, 123.4, 1_234.0, 1_234_567.8].map(number), ["0.0", "12.3", "123", "1,234", "1,234,568"]);
    }

    #[test]
    fn a_row_has_ours_and_every_peer() {
        let order = Some(Order::PerKey);
        let lines = [
            line("eventbox", None, Some(2_000.0), &[]),
            line("a", order, Some(100.0), &["1 lost"]),
            line("b", order, None, &[]),
        ];
        let text = table(&lines, &["a", "b"]);
        assert!(
            text.contains("2,000") && text.contains("100 [1]") && text.contains("[1] W1 per key, a: 1 lost"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| line.contains("per key") && line.contains("events/s")).count(), 1);
    }
}
