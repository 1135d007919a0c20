//! The benchmark as a real process: it runs, verifies its sums and prints its result. No test asserts a speed.

mod costs;
mod lines;
mod refused;
mod workloads;

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use self::lines::{assert_complete, number};

/// Time limit of a benchmark of two seconds on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(15 * 60);

/// The result of a finished benchmark.
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a benchmark with arguments. Its files go into a directory that `cargo clean` removes.
async fn bench(args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR")).arg("bench").args(args);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(HANGS_AFTER, output).await.expect("the benchmark ends").unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Finished {
    /// Returns the lines of a verified run, after a check of their invariants.
    #[track_caller]
    fn verified(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        let lines: Vec<Value> = serde_json::from_str(&self.stdout).unwrap();
        lines.iter().for_each(assert_complete);
        lines
    }
}

/// Counts do not depend on time. Batches of 500 are two commits for 1,000 events, and the log has 200 bytes of each
/// event.
#[tokio::test]
async fn costs_are_those_of_a_thousand_events() {
    let lines = bench(&["--smoke", "--only", "W2", "--engine", "sqlite", "--json"]).await.verified();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    for side in ["ours", "yardstick"] {
        let cost = &line["cost"][side];
        assert_eq!(cost["commits"], 2.0, "{line}");
        assert!(number(&cost["statements"]) >= 2.0, "{line}");
        assert!(number(&cost["wal_bytes"]) > 200_000.0, "{line}");
        assert!(number(&cost["client_cpu_seconds"]) > 0.0, "{line}");
        assert_eq!((&cost["dead_tuples"], &cost["server_cpu_seconds"]), (&Value::Null, &Value::Null), "{line}");
    }
}

/// Without `--json` there are tables; rounds are as many as asked for, and smoke does not hide them.
#[tokio::test]
async fn a_person_gets_tables() {
    let finished = bench(&["--smoke", "--rounds", "3", "--only", "W2", "--engine", "sqlite"]).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for wanted in ["ratio", "W2", " 3 ", "verified", "cost of 1,000 events", "statements"] {
        assert!(finished.stdout.contains(wanted), "{wanted} in {}", finished.stdout);
    }
}
