//! Several processes on one database share the work. Any of them may die.
#![allow(clippy::print_stderr, reason = "a run prints its shares and its seed")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr};

use super::{Finished, demo, finish, some_flights};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Kills a process that is not a child of the test, as a shell would.
fn kill(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    killed.expect("there is a kill to run");
}

/// Returns whether a process runs and is not a zombie.
fn is_alive(pid: u32) -> bool {
    let reports = std::process::Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&reports.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

/// A running demo, and its reports about worker processes.
struct Running {
    child: Child,
    stderr: tokio::io::Lines<BufReader<ChildStderr>>,
    /// Process id of each worker process that was reported.
    pids: BTreeMap<u32, u32>,
    reports: Vec<String>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = demo(args).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Running { child, stderr, pids: BTreeMap::new(), reports: Vec::new() }
    }

    /// Reads the reports until `deadline` or their end. Returns whether the demo still reports.
    async fn listen_until(&mut self, deadline: Instant) -> bool {
        while let Ok(line) = tokio::time::timeout_at(deadline.into(), self.stderr.next_line()).await {
            match line.unwrap() {
                Some(line) => self.note(line),
                None => return false,
            }
        }
        true
    }

    /// Reads the reports until `processes` worker processes run.
    async fn listen_until_running(&mut self, processes: usize) {
        let deadline = Instant::now() + SOON;
        while self.pids.len() < processes {
            let line = tokio::time::timeout_at(deadline.into(), self.stderr.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("not all run: {:?}", self.reports)).unwrap();
            self.note(line.unwrap_or_else(|| panic!("the demo ended: {:?}", self.reports)));
        }
    }

    fn note(&mut self, line: String) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["process", process, "runs", "as", pid] => {
                self.pids.insert(process.parse().unwrap(), pid.parse().unwrap());
            }
            ["process", process, "died", ..] => {
                self.pids.remove(&process.parse().unwrap());
            }
            _ => {}
        }
        self.reports.push(line);
    }

    async fn finish(mut self, within: Duration) -> Finished {
        assert!(!self.listen_until(Instant::now() + within).await, "not done in {within:?}: {:?}", self.reports);
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
        let code = self.child.wait().await.unwrap().code();
        Finished { code, stdout, stderr: self.reports.join("\n") }
    }
}

/// Checks that each process did something and all together did everything. Prints the shares.
#[track_caller]
fn assert_shared(report: &Value, processes: usize) {
    let shares = report["processes"].as_array().unwrap();
    eprintln!("shares of {} events in {} s:", report["emitted"], report["seconds"]);
    shares.iter().for_each(|share| eprintln!("  {share}"));
    assert_eq!(shares.len(), processes, "{report}");
    let of = |share: &Value| share["events"].as_i64().unwrap();
    assert!(shares.iter().all(|share| of(share) > 0 && share["turns"].as_i64().unwrap() > 0), "{report}");
    assert_eq!(shares.iter().map(of).sum::<i64>(), report["emitted"].as_i64().unwrap(), "{report}");
}

/// Runs three processes and kills one of them every two seconds. The result must be correct.
async fn killed_for<B: TestEngine>(length: Duration, flights: usize, rate: &str) {
    const PROCESSES: usize = 3;
    const KILL_EVERY: Duration = Duration::from_secs(2);
    const REST: Duration = Duration::from_secs(900);
    let seed = std::env::var("EVENTBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("EVENTBOX_SEED={seed} repeats the choices");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let input = some_flights(directory.path(), flights);
    let database = TestDb::<B>::empty("killed").await;
    let url = database.url();
    let args =
        ["--json", "--processes", "3", "--rate", rate, "--input", input.to_str().unwrap(), "--database-url", &url];
    let mut running = Running::start(&args);
    running.listen_until_running(PROCESSES).await;

    let begun = Instant::now();
    let mut killed = 0;
    for kills in 1.. {
        assert!(running.listen_until(begun + KILL_EVERY * kills).await, "it ended too early: {:?}", running.reports);
        if begun.elapsed() >= length {
            break;
        }
        let victims: Vec<u32> = running.pids.values().copied().collect();
        if !victims.is_empty() {
            kill(victims[random.random_range(0..victims.len())]);
            killed += 1;
        }
    }
    let calm = Instant::now();
    let report = running.finish(REST).await.verified();
    eprintln!("{killed} kills in {:?}, done {:?} after the last", length, calm.elapsed());
    assert_shared(&report, PROCESSES);
    let restarts: i64 =
        report["processes"].as_array().unwrap().iter().map(|share| share["restarts"].as_i64().unwrap()).sum();
    assert_eq!(restarts, killed, "{report}");
    database.remove().await;
}

on_every_engine! {
    /// A killed demo leaves no process behind, and several processes resume its work.
    async fn no_process_is_left_alone(db) {
        let _ = db;
        let directory = tempfile::tempdir().unwrap();
        let input = some_flights(directory.path(), 1_000);
        let database = TestDb::<Engine>::empty("orphans").await;
        let url = database.url();
        let args = ["--json", "--processes", "2", "--input", input.to_str().unwrap(), "--database-url", &url];
        let mut running = Running::start(&[&args[..], &["--rate", "100"]].concat());
        running.listen_until_running(2).await;
        eventually(SOON, async || database.count("demo_share").await > 0).await;
        let pids: Vec<u32> = running.pids.values().copied().collect();
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        running.child.kill().await.unwrap();
        eventually(SOON, async || !pids.iter().any(|pid| is_alive(*pid))).await;

        let resumed = finish(&[&args[..], &["--resume"]].concat()).await.verified();
        assert_shared(&resumed, 2);
        database.remove().await;
    }
}

/// Random kills with -9 every two seconds for a minute on Postgres: no event is lost or processed twice, and every
/// process works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_for_a_minute_on_postgres() {
    killed_for::<sqlx::Postgres>(Duration::from_secs(60), 15_000, "240").await;
}

/// The same on one SQLite file, for 15 seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_on_sqlite() {
    killed_for::<sqlx::Sqlite>(Duration::from_secs(15), 4_000, "200").await;
}

/// Four processes on one SQLite file: each gets a share, in the end and while all of them have work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_one_file_each_get_a_tenth() {
    let database = TestDb::<sqlx::Sqlite>::empty("four").await;
    let url = database.url();
    let directory = tempfile::tempdir().unwrap();
    let input = some_flights(directory.path(), 8_000);
    let args = ["--json", "--keep", "--processes", "4", "--input", input.to_str().unwrap(), "--database-url", &url];
    let report = finish(&args).await.verified();
    assert_shared(&report, 4);
    // The rows are numbered in the order of their commits.
    let early = "SELECT process || ' ' || count(*) FROM (SELECT process FROM demo_share ORDER BY rowid LIMIT
                 (SELECT count(*) / 2 FROM demo_share)) GROUP BY process ORDER BY process";
    let early = database.texts(early).await;
    eprintln!("turns of each in the first half of the commits: {early:?}");
    let turns: Vec<i64> = early.iter().map(|row| row.split_once(' ').unwrap().1.parse().unwrap()).collect();
    for shares in
        [turns, report["processes"].as_array().unwrap().iter().map(|share| share["turns"].as_i64().unwrap()).collect()]
    {
        let all: i64 = shares.iter().sum();
        assert!(shares.len() == 4 && shares.iter().all(|share| share * 10 >= all), "less than a tenth: {shares:?}");
    }
    database.remove().await;
}
