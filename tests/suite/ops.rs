//! The files of `ops/`: they name only metrics and anchors that exist.

use std::collections::BTreeSet;

use eventbox::metrics::InstrumentKind;

use crate::prometheus::{exposed, instruments};
use crate::support::source::root;

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the series that Prometheus may have.
fn series() -> BTreeSet<String> {
    let of = |name: String, kind| match kind {
        InstrumentKind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        _ => vec![name],
    };
    instruments().iter().flat_map(|one| of(exposed(one.name), one.kind)).collect()
}

/// Returns the words of a text that begin as the name of a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    const PREFIXES: [&str; 3] = ["eventbox_", "durable_emitter_", "chip_ingress_"];
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// Returns the values of a key in a text of YAML.
fn values(text: &str, key: &str) -> Vec<String> {
    let key = format!("{key}:");
    let lines = text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(&key));
    lines.map(|value| value.trim().trim_matches('"').to_owned()).collect()
}

/// Returns the expressions of a dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    serde_json::Value::String(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

fn exist(names: &BTreeSet<String>) {
    let series = series();
    let unknown: Vec<_> = names.iter().filter(|name| !series.contains(*name)).collect();
    assert!(unknown.is_empty(), "no instrument has them: {unknown:?}");
}

#[test]
fn the_dashboard_names_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(&text("ops/grafana.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() >= 20, "{}", found.len());
    exist(&named(&found.join(" ")));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels of one id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
    }
}

#[test]
fn the_alerts_name_metrics_that_exist() {
    let alerts = text("ops/alerts.yaml");
    let names = named(&alerts);
    assert!(names.len() >= 12, "{names:?}");
    exist(&names);
}

/// Every alert leads to a section of the runbook that exists.
#[test]
fn every_alert_has_its_page_in_the_runbook() {
    const PAGE: &str = "docs/operating.md#";
    let (alerts, runbook) = (text("ops/alerts.yaml"), text("docs/operating.md"));
    let anchors: BTreeSet<String> = runbook.lines().filter_map(|line| line.strip_prefix('#')).map(anchor_of).collect();
    let (names, pages) = (values(&alerts, "alert"), values(&alerts, "runbook_url"));
    assert_eq!(names.len(), pages.len(), "an alert without a runbook");
    assert_eq!(names.len(), values(&alerts, "severity").len(), "an alert without a severity");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "two alerts of one name");
    for (name, page) in names.iter().zip(pages) {
        let (_, anchor) = page.split_once(PAGE).unwrap_or_else(|| panic!("{name}: {page}"));
        assert!(anchors.contains(anchor), "{name}: docs/operating.md has no section {anchor}");
    }
}

/// Returns the anchor of a heading, as GitHub makes it.
fn anchor_of(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading.replace(' ', "-").chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

/// Every file that the composition mounts, builds from or is scraped by exists.
#[test]
fn the_files_of_the_composition_exist() {
    let (compose, prometheus) = (text("ops/compose.yaml"), text("ops/prometheus.yml"));
    let mounted = |line: &str| Some(line.trim().strip_prefix("- ./")?.split(':').next()?.to_owned());
    let mut files: Vec<String> = compose.lines().filter_map(mounted).collect();
    assert_eq!(files, ["prometheus.yml", "alerts.yaml", "grafana.json"]);
    files.extend(
        prometheus
            .lines()
            .filter_map(|line| line.strip_prefix("  - "))
            .filter(|file| file.ends_with(".yaml"))
            .map(str::to_owned),
    );
    for file in files {
        assert!(root().join("ops").join(&file).is_file(), "ops/{file}");
    }
    for dockerfile in values(&compose, "dockerfile") {
        assert!(root().join(&dockerfile).is_file(), "{dockerfile}");
    }
}

/// The roles name every table, so that a table of a new migration is not forgotten.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn the_roles_name_every_table() {
    crate::support::with_database("roles_name_tables", async |db: &crate::support::TestDb<sqlx::Postgres>| {
        let tables = r"SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'eventbox\_%'";
        let roles = text("migrations/roles/postgres.sql");
        let words: BTreeSet<&str> =
            roles.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).collect();
        let missing: Vec<_> =
            db.texts(tables).await.into_iter().filter(|table| !words.contains(table.as_str())).collect();
        assert!(missing.is_empty(), "grant rights on them: {missing:?}");
    })
    .await;
}
