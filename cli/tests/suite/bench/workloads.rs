//! Every workload on both engines, with correct sums.

use sqlx::Postgres;

use super::lines::{names, number};
use super::{Finished, bench};
use crate::support::TestDb;

/// Each line of W1 to W3c.
const EMITS_AND_DRAINS: [&str; 11] = [
    "W1 plain (events/s)",
    "W1 sender (events/s)",
    "W2 (events/s)",
    "W3 reducer (events/s)",
    "W3 processor (events/s)",
    "W3 processor, batched (events/s)",
    "W3 reducer, journaled (events/s)",
    "W3b reducer (events/s)",
    "W3b processor (events/s)",
    "W3b processor, batched (events/s)",
    "W3c (events/s)",
];

/// Each line of W4, W5 and W5r.
const LATENCIES_AND_OUTBOX: [&str; 8] = [
    "W4 (ms, p50, in one process)",
    "W4 (ms, p99, in one process)",
    "W4 (ms, p50, across two processes)",
    "W4 (ms, p99, across two processes)",
    "W5 by hand (events/s)",
    "W5 client alone (events/s)",
    "W5r by hand (events/s)",
    "W5r client alone (events/s)",
];

/// Each line of W6.
const GROWTH: [&str; 10] = [
    "W6 (events/s, emitted to others, 1000 pending)",
    "W6 (events/s, emitted into the same box, 1000 pending)",
    "W6 (events/s, drained beside them, 1000 pending)",
    "W6 (ms, one turn beside them, 1000 pending)",
    "W6 (ms, one turn of the same box, 1000 pending)",
    "W6 (events/s, emitted to others, after 0.1 s with an open transaction)",
    "W6 (events/s, emitted into the same box, after 0.1 s with an open transaction)",
    "W6 (events/s, drained beside them, after 0.1 s with an open transaction)",
    "W6 (ms, one turn beside them, after 0.1 s with an open transaction)",
    "W6 (ms, one turn of the same box, after 0.1 s with an open transaction)",
];

/// Each line of W7 and W7b.
const PEERS: [&str; 14] = [
    "W7 in, against a Sender (events/s, 1 stream)",
    "W7 in, against a Sender (events/s, 4 streams)",
    "W7 in, against a Sender (events/s, 16 streams)",
    "W7 in, against no database (events/s, 1 stream)",
    "W7 in, against no database (events/s, 4 streams)",
    "W7 in, against no database (events/s, 16 streams)",
    "W7 out, against a Sender (events/s, 1 stream)",
    "W7 out, against a Sender (events/s, 4 streams)",
    "W7 out, against a Sender (events/s, 16 streams)",
    "W7 out, against no database (events/s, 1 stream)",
    "W7 out, against no database (events/s, 4 streams)",
    "W7 out, against no database (events/s, 16 streams)",
    "W7b (ms, p50)",
    "W7b (ms, p99)",
];

async fn on_sqlite(workloads: &str, more: &[&str], wanted: &[&str]) -> Finished {
    let args = [&["--smoke", "--json", "--engine", "sqlite", "--only", workloads], more].concat();
    let finished = bench(&args).await;
    let lines = finished.verified();
    assert_eq!(names(&lines), wanted);
    assert!(lines.iter().all(|line| line["engine"] == "sqlite"), "{lines:?}");
    finished
}

/// On a given server the benchmark uses its own database and removes it. The given database does not change.
async fn on_a_given_server(test: &str, workloads: &str, wanted: &[&str]) {
    let db = TestDb::<Postgres>::empty(test).await;
    let url = db.url();
    let args = ["--smoke", "--json", "--engine", "postgres", "--only", workloads, "--database-url", &url];
    let finished = bench(&args).await;
    let lines = finished.verified();
    assert_eq!(names(&lines), wanted);
    assert!(lines.iter().all(|line| line["engine"] == "postgres"), "{lines:?}");
    for line in lines.iter().filter(|line| line["workload"] != "W6") {
        let cost = &line["cost"]["ours"];
        assert!(number(&cost["wal_bytes"]) > 0.0, "{line}");
        assert!(cost["server_cpu_seconds"].is_null(), "the benchmark did not start the server: {line}");
        // Older servers write their statistics later.
        if db.number("SELECT current_setting('server_version_num')::int8").await >= 150_000 {
            assert!(number(&cost["commits"]) > 0.0, "{line}");
            // Every consumed event leaves a dead tuple. The states leave some more.
            let consumes = !["W1", "W2", "W7"].iter().any(|emits| line["workload"] == *emits);
            assert!(!consumes || number(&cost["dead_tuples"]) >= 1_000.0, "{line}");
        }
    }
    assert!(finished.stderr.contains("fsync"), "the settings are printed: {}", finished.stderr);
    let own = finished.stderr.split_once("in a database of its own, ").and_then(|(_, rest)| rest.split_once(':'));
    let (own, _) = own.expect("the name of its database is printed");
    assert!(own.starts_with("eventbox_bench_"), "{own}");
    assert_eq!(db.number(format_args!("SELECT count(*) FROM pg_database WHERE datname = '{own}'")).await, 0, "{own}");
    assert_eq!(db.number("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'").await, 0);
    db.remove().await;
}

#[tokio::test]
async fn emits_and_drains_run_on_sqlite() {
    on_sqlite("W1,W2,W3,W3b,W3c", &[], &EMITS_AND_DRAINS).await;
}

#[tokio::test]
async fn latencies_and_the_outbox_run_on_sqlite() {
    on_sqlite("W4,W5,W5r", &[], &LATENCIES_AND_OUTBOX).await;
}

/// The output has a line for each figure of each further point and of the soak. There is a picture for each figure.
#[tokio::test]
async fn growth_runs_on_sqlite_and_is_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("plots");
    let finished = on_sqlite("W6", &["--plot", plot.to_str().unwrap()], &GROWTH).await;
    let pictures: Vec<_> = std::fs::read_dir(&plot).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(pictures.len(), 5, "{pictures:?}");
    assert!(pictures.iter().all(|picture| std::fs::read_to_string(picture).unwrap().contains("</svg>")));
    assert!(pictures.iter().all(|picture| finished.stderr.contains(picture.to_str().unwrap())), "{}", finished.stderr);
}

#[tokio::test]
async fn emits_and_drains_run_on_a_given_server() {
    on_a_given_server("emits_and_drains_run_on_a_given_server", "W1,W2,W3,W3b,W3c", &EMITS_AND_DRAINS).await;
}

#[tokio::test]
async fn latencies_and_the_outbox_run_on_a_given_server() {
    on_a_given_server("latencies_and_the_outbox_run_on_a_given_server", "W4,W5,W5r", &LATENCIES_AND_OUTBOX).await;
}

#[tokio::test]
async fn growth_runs_on_a_given_server() {
    on_a_given_server("growth_runs_on_a_given_server", "W6", &GROWTH).await;
}

#[tokio::test]
async fn peers_run_on_sqlite() {
    on_sqlite("W7,W7b", &[], &PEERS).await;
}

#[tokio::test]
async fn peers_run_on_a_given_server() {
    on_a_given_server("peers_run_on_a_given_server", "W7,W7b", &PEERS).await;
}
