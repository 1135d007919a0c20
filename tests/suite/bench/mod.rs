//! The benchmark, as a real process: that it runs, verifies its sums and tells what it found. How fast anything is, is never asserted.

mod growth;
mod refused;

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::TestDb;

/// What a finished benchmark said.
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A benchmark with arguments; what it leaves goes into a directory that is cleaned with the build.
async fn bench(args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR")).arg("bench").args(args);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Finished {
    /// The lines of a verified run.
    #[track_caller]
    fn verified(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        let lines: Vec<Value> = serde_json::from_str(&self.stdout).unwrap();
        assert!(lines.iter().all(|line| line["verified"] == true), "{}", self.stdout);
        lines
    }
}

/// What the lines are about.
fn names(lines: &[Value]) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    lines.iter().map(|line| (text(&line["workload"]).unwrap(), text(&line["variant"]))).collect()
}

#[tokio::test]
async fn a_line_has_everything() {
    let lines = bench(&["--quick", "--only", "W2", "--engine", "sqlite", "--json"]).await.verified();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let mut fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["cost", "engine", "ours", "ratio", "rounds", "unit", "variant", "verified", "workload", "yardstick"]
    );
    assert_eq!((&line["workload"], &line["variant"], &line["engine"]), (&"W2".into(), &Value::Null, &"sqlite".into()));
    assert_eq!((&line["unit"], &line["rounds"]), (&"events/s".into(), &3.into()));
    let [ours, yardstick, ratio] = ["ours", "yardstick", "ratio"].map(|field| line[field].as_f64().unwrap());
    assert!(ours > 0.0 && (ratio - ours / yardstick).abs() < 1e-6, "{line}");
    for side in ["ours", "yardstick"] {
        let cost = &line["cost"][side];
        // Batches of 500 are two commits for 1,000 events, and 200 bytes of each are in the log.
        assert_eq!(cost["commits"], 2.0, "{line}");
        assert!(cost["statements"].as_f64().unwrap() >= 2.0, "{line}");
        assert!(cost["wal_bytes"].as_f64().unwrap() > 200_000.0, "{line}");
        assert!(cost["client_cpu_seconds"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((&cost["dead_tuples"], &cost["server_cpu_seconds"]), (&Value::Null, &Value::Null), "{line}");
    }
}

#[tokio::test]
async fn every_other_workload_runs_on_sqlite() {
    let lines = bench(&["--quick", "--only", "W1,W3b,W3c,W4,W5", "--engine", "sqlite", "--json"]).await.verified();
    let wanted = [
        ("W1", Some("plain")),
        ("W1", Some("sender")),
        ("W3b", Some("reducer")),
        ("W3b", Some("processor")),
        ("W3c", None),
        ("W4", None),
        ("W4", None),
        ("W4", None),
        ("W4", None),
        ("W5", None),
    ];
    assert_eq!(names(&lines), wanted.map(|(workload, variant)| (workload.to_owned(), variant.map(str::to_owned))));
    assert!(lines.iter().all(|line| line["ours"].as_f64().unwrap() > 0.0), "{lines:?}");
}

/// On a server that is given, in a database of its own, which is gone afterwards.
#[tokio::test]
async fn it_runs_on_a_given_server() {
    let db = TestDb::<sqlx::Postgres>::empty("it_runs_on_a_given_server").await;
    let args = ["--quick", "--only", "W2,W3,W4", "--engine", "postgres", "--json", "--database-url", &db.url()];
    let finished = bench(&args).await;
    let lines = finished.verified();
    assert_eq!(lines.len(), 1 + 2 + 4);
    let cost = &lines[1]["cost"]["ours"];
    assert!(cost["commits"].as_f64().unwrap() > 0.0 && cost["wal_bytes"].as_f64().unwrap() > 0.0, "{cost}");
    // Every event that is consumed leaves a dead tuple; the states leave some more.
    assert!(cost["dead_tuples"].as_f64().unwrap() >= 1_000.0, "{cost}");
    assert_eq!(cost["server_cpu_seconds"], Value::Null, "the server is somebody else's");
    assert!(finished.stderr.contains("fsync"), "the settings are told: {}", finished.stderr);
    assert_eq!(db.number("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'").await, 0);
    db.remove().await;
}

/// Without `--json` there are tables.
#[tokio::test]
async fn a_person_gets_tables() {
    let finished = bench(&["--quick", "--only", "W2", "--engine", "sqlite"]).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for wanted in ["ratio", "W2", "verified", "cost of 1,000 events", "statements"] {
        assert!(finished.stdout.contains(wanted), "{wanted} in {}", finished.stdout);
    }
}
