//! The result of a run as tables for a person.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use super::cost::Cost;
use super::measure::Line;

/// Formats the figures and ratios, then the costs.
pub(crate) fn tables(lines: &[Line]) -> String {
    let mut text = figures(lines).to_string();
    if lines.iter().any(|line| line.cost.ours.is_some()) {
        text.push_str("\n\nThe cost of 1,000 events:\n");
        text.push_str(&costs(lines).to_string());
    }
    text.push_str("\n\nA ratio above 1: ours is faster than the yardstick. Medians of the rounds.");
    text
}

pub(crate) fn table(header: &[&str], first_number: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.to_vec());
    for column in first_number..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn what(line: &Line) -> [String; 2] {
    let variant = line.variant.map(|variant| format!(" {variant}")).unwrap_or_default();
    [line.engine.to_owned(), format!("{}{variant}", line.workload)]
}

fn figures(lines: &[Line]) -> Table {
    let mut table = table(&["engine", "workload", "unit", "ours", "yardstick", "ratio", "rounds", "sums"], 3);
    for line in lines {
        let [engine, workload] = what(line);
        let sums = if line.verified { "verified" } else { "WRONG" };
        table.add_row([
            engine,
            workload,
            line.unit.clone(),
            number(line.ours),
            number(line.yardstick),
            format!("{:.2}", line.ratio),
            line.rounds.to_string(),
            sums.to_owned(),
        ]);
    }
    table
}

fn costs(lines: &[Line]) -> Table {
    let header = [
        "engine",
        "workload",
        "side",
        "statements",
        "commits",
        "WAL kB",
        "dead tuples",
        "client CPU ms",
        "server CPU ms",
    ];
    let mut table = table(&header, 3);
    let mut printed: Option<(&str, &str, Option<&str>, Option<Cost>)> = None;
    for line in lines {
        // Figures of one measurement share one row of costs.
        let card = (line.engine, line.workload, line.variant, line.cost.ours);
        if printed.replace(card) == Some(card) {
            continue;
        }
        for (side, cost) in [("ours", line.cost.ours), ("yardstick", line.cost.yardstick)] {
            let Some(cost) = cost else { continue };
            let [engine, workload] = what(line);
            let scaled = |figure: Option<f64>, by: f64| figure.map_or("–".to_owned(), |figure| number(figure * by));
            table.add_row([
                engine,
                workload,
                side.to_owned(),
                scaled(cost.statements, 1.0),
                scaled(cost.counted.commits, 1.0),
                scaled(cost.counted.wal_bytes, 1e-3),
                scaled(cost.counted.dead_tuples, 1.0),
                scaled(cost.client_cpu_seconds, 1e3),
                scaled(cost.server_cpu_seconds, 1e3),
            ]);
        }
    }
    table
}

/// Formats a number with at least three digits, and with separators from 1,000.
pub(crate) fn number(value: f64) -> String {
    if value >= 1_000.0 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive and not huge")]
        return indicatif::HumanCount(value.round() as u64).to_string();
    }
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.123, 12.34, 123.4, 12_345.6].map(number);
        assert_eq!(shown, ["0.00", "0.12", "12.3", "123", "12,346"]);
    }
}
