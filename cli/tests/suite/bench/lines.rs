//! The lines of `--json`.

use serde_json::Value;

/// Fields of a line, sorted.
const FIELDS: [&str; 10] =
    ["cost", "engine", "ours", "ratio", "rounds", "unit", "variant", "verified", "workload", "yardstick"];

/// Fields of the costs of one side, sorted.
const COSTS: [&str; 6] =
    ["client_cpu_seconds", "commits", "dead_tuples", "server_cpu_seconds", "statements", "wal_bytes"];

/// Returns a number that must exist.
#[track_caller]
pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

/// Checks the invariants of every line, for any workload, engine and machine.
#[track_caller]
pub(super) fn assert_complete(line: &Value) {
    assert_eq!(fields(line), FIELDS);
    assert_eq!((&line["verified"], &line["rounds"]), (&true.into(), &1.into()), "{line}");
    let unit = line["unit"].as_str().unwrap();
    let [ours, yardstick, ratio] = ["ours", "yardstick", "ratio"].map(|field| number(&line[field]));
    let (over, under) = if unit.starts_with("events/s") { (ours, yardstick) } else { (yardstick, ours) };
    assert!(over > 0.0 && under > 0.0 && (ratio - over / under).abs() <= 1e-9 * ratio, "above 1 is better: {line}");
    for side in ["ours", "yardstick"] {
        let cost = &line["cost"][side];
        match line["workload"] == "W6" {
            true => assert_eq!(cost, &Value::Null, "{line}"),
            false => assert_eq!(fields(cost), COSTS, "{line}"),
        }
    }
}

/// Names the lines: the workload, its variant after a blank, and the unit in parentheses.
pub(super) fn names(lines: &[Value]) -> Vec<String> {
    let name = |line: &Value| {
        let variant = line["variant"].as_str().map(|variant| format!(" {variant}")).unwrap_or_default();
        format!("{}{variant} ({})", line["workload"].as_str().unwrap(), line["unit"].as_str().unwrap())
    };
    lines.iter().map(name).collect()
}
