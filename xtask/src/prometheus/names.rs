//! The names and the queries of `ops/`, asked of a Prometheus that has scraped a service.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::api::Api;

/// Beginnings of the names of our metrics.
const PREFIXES: [&str; 3] = ["eventbox_", "durable_emitter_", "chip_ingress_"];

/// Series that a run without faults of data does not have, and when a service has them.
const RARE: [(&str, &str); 12] = [
    ("durable_emitter_dead_lettered_total", "a message is given up"),
    ("durable_emitter_emit_async_dropped_total", "publish_async meets a full queue"),
    ("durable_emitter_expired_purged", "a message expires"),
    ("durable_emitter_queue_near_ttl", "messages have a time to live"),
    ("eventbox_contention_total", "two turns of one recipient race"),
    ("eventbox_duplicates_total", "a name is emitted again"),
    ("eventbox_list_duration_seconds_count", "a turn runs outside a round: of a processor, or after a failed round"),
    ("eventbox_process_duration_seconds_bucket", "the same"),
    ("eventbox_process_duration_seconds_count", "the same"),
    ("eventbox_quarantined_total", "an event fails every batch"),
    ("eventbox_runtime_hooks_total", "a turn has a hook"),
    ("eventbox_runtime_unregistered_total", "an event waits in a kind that the process does not handle"),
];

/// Variables of the dashboard, and their values for a query.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "1m"), ("$job", ".+"), ("$kind", ".+")];

/// Checks that Prometheus has evaluated each rule, knows each name of the rules and of the dashboard, and understands
/// each query of the dashboard.
pub(super) fn check(api: &Api) -> Result<()> {
    println!("\n3. The names and queries of ops/");
    let (rules, failed) = api.rules()?;
    ensure!(rules > 0 && failed.is_empty(), "rules that Prometheus could not evaluate: {failed:#?}");
    println!("   ops/alerts.yaml: {rules} rules were evaluated without an error");
    let (alerts, dashboard) = (text("alerts.yaml")?, text("grafana.json")?);
    let dashboard: Value = serde_json::from_str(&dashboard).context("read ops/grafana.json")?;
    let (mut queries, mut lists) = (Vec::new(), Vec::new());
    texts(&dashboard, &["expr"], &mut queries);
    texts(&dashboard, &["definition"], &mut lists);
    with_data(api, &queries)?;
    known(api, &[alerts, queries.join(" "), lists.join(" ")].join(" "))
}

/// Has Prometheus evaluate each query.
fn with_data(api: &Api, queries: &[String]) -> Result<()> {
    let mut with_data = 0;
    for query in queries {
        let query = VARIABLES.iter().fold(query.clone(), |query, (name, value)| query.replace(name, value));
        with_data +=
            usize::from(api.query(&query).with_context(|| format!("a query of ops/grafana.json: {query}"))? > 0);
    }
    ensure!(
        with_data * 2 > queries.len(),
        "only {with_data} of {} queries of ops/grafana.json have data",
        queries.len()
    );
    println!("   ops/grafana.json: Prometheus understands all {} queries; {with_data} have data now", queries.len());
    Ok(())
}

/// Compares the names with the series of Prometheus.
fn known(api: &Api, text: &str) -> Result<()> {
    let (names, series) = (names(text), api.series()?);
    let absent: Vec<&String> = names.iter().filter(|name| !series.contains(*name)).collect();
    let reason = |name: &str| RARE.iter().find(|(rare, _)| *rare == name).map(|(_, reason)| *reason);
    let unknown: Vec<_> = absent.iter().filter(|name| reason(name.as_str()).is_none()).collect();
    ensure!(unknown.is_empty(), "ops/ names series that no scrape had: {unknown:?}");
    println!("   {} of {} names have been scraped; the others appear when", names.len() - absent.len(), names.len());
    for name in absent {
        println!("     {name}: {}", reason(name).unwrap_or_default());
    }
    Ok(())
}

/// Returns the words that begin as the name of one of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

/// Collects the texts below these keys.
fn texts(value: &Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match value {
            Value::String(text) if keys.contains(&key.as_str()) => found.push(text.clone()),
            value => texts(value, keys, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

fn text(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(name);
    fs::read_to_string(&path).with_context(|| format!("read ops/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_ours() {
        let found = names("sum by (kind) (eventbox_size{job=~\"eventbox_x\"}) > up or chip_ingress_a_total");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["chip_ingress_a_total", "eventbox_size", "eventbox_x"]);
    }
}
