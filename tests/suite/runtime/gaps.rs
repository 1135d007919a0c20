//! Hand-overs between real processes under load: how long recipients wait when a process comes, goes, is replaced or is
//! killed with -9. A child is this test binary, started again with one test's name and its environment.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use eventbox::runtime::{Announcer, LeaseConfig, Runtime, RuntimeConfig};
use eventbox::uuid::Uuid;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, admin};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{STOP, idle};
use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine, with_database};

/// Environment variable of a child: the database.
const URL: &str = "EVENTBOX_TEST_GAP_URL";
/// Environment variable of a child: its terms as milliseconds, `ttl,renew,check`.
const TERMS: &str = "EVENTBOX_TEST_GAP_TERMS";

/// Recipients, of which each gets an event at every beat of the load.
const RECIPIENTS: usize = 64;

/// Time between two beats of the load.
const BEAT: Duration = Duration::from_millis(50);

/// Longest wait of a recipient while processes are replaced one after the other.
const ROLLING: Duration = Duration::from_secs(1);

fn recipient(number: usize) -> Recipient {
    Recipient::new("gap", number.to_string()).unwrap()
}

/// What a recipient has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    /// Number of the next event.
    next: u64,
    /// Events that came twice, or out of their order.
    wrong: u64,
    /// Longest time from an emit to its decision, by the phase in which the event was emitted, in microseconds.
    longest_us: BTreeMap<u32, u64>,
}

/// Checks the order of events, and measures how long each has waited.
struct Measuring;

impl Reducer for Measuring {
    type State = Seen;

    fn reduce(&self, _to: &Recipient, events: &[Event], mut seen: Seen) -> Result<Outcome<Seen>, BoxError> {
        for event in events {
            let text = String::from_utf8_lossy(event.value());
            let (phase, number) = text.split_once(' ').ok_or("no phase")?;
            let (phase, number): (u32, u64) = (phase.parse()?, number.parse()?);
            if number == seen.next {
                seen.next += 1;
            } else {
                seen.wrong += 1;
            }
            let waited = SystemTime::now().duration_since(event.id().emitted_at()).unwrap_or_default();
            let longest = seen.longest_us.entry(phase).or_default();
            *longest = (*longest).max(u64::try_from(waited.as_micros())?);
        }
        Ok(Outcome::to(seen).consuming(events))
    }
}

/// Works until its standard input ends, when a test has started this process, and else does nothing.
#[test]
#[ignore = "a child process of the tests of this file"]
fn child() {
    let (Ok(url), Ok(terms)) = (std::env::var(URL), std::env::var(TERMS)) else { return };
    let terms: Vec<u64> = terms.split(',').map(|ms| ms.parse().unwrap()).collect();
    let mut leases = LeaseConfig::default();
    leases.lease_ttl = Duration::from_millis(terms[0]);
    leases.renew_interval = Duration::from_millis(terms[1]);
    leases.check_interval = Duration::from_millis(terms[2]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if url.starts_with("postgres") {
            work(PoolOptions::<sqlx::Postgres>::new().max_connections(5).connect(&url).await.unwrap(), leases).await;
        } else {
            let file: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
            let options = eventbox::sqlite_options(file.get_filename());
            work(PoolOptions::<sqlx::Sqlite>::new().max_connections(5).connect_with(options).await.unwrap(), leases)
                .await;
        }
    });
}

#[allow(clippy::print_stdout, reason = "the test reads what its child says")]
async fn work<B: CellEngine>(pool: Pool<B>, leases: LeaseConfig) {
    let mut config = RuntimeConfig::default();
    config.leases = Some(leases);
    let runtime = Runtime::builder(pool).reducer("gap", Measuring).config(config).start().await.unwrap();
    println!("worker {}", runtime.worker());
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await.unwrap().unwrap();
    assert!(runtime.stop(STOP).await.complete);
    std::process::exit(0);
}

/// A process that works on the boxes.
struct Process {
    child: Child,
    worker: Uuid,
}

impl Process {
    async fn start<B: CellEngine>(db: &TestDb<B>, terms: LeaseConfig) -> Self {
        let terms = [terms.lease_ttl, terms.renew_interval, terms.check_interval];
        let terms = terms.map(|term| term.as_millis().to_string()).join(",");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "runtime::gaps::child", "--ignored", "--nocapture"]).env(URL, db.url());
        command.env(TERMS, terms).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = lines.next_line().await.unwrap().expect("the child says who it is");
            if let Some((_, worker)) = line.split_once("worker ") {
                // The child may write more when it ends.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Process { child, worker: worker.parse().unwrap() };
            }
        }
    }

    /// Ends the process as a deploy does.
    async fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// Emits without a pause, until it is stopped.
struct Load {
    phase: Arc<AtomicU32>,
    ends: tokio::sync::watch::Sender<bool>,
    emits: JoinHandle<u64>,
}

impl Load {
    fn begin<B: CellEngine>(db: &TestDb<B>) -> Self {
        let (pool, phase) = (db.open(3), Arc::new(AtomicU32::new(0)));
        let (ends, ended) = tokio::sync::watch::channel(false);
        let now = Arc::clone(&phase);
        let emits = tokio::spawn(async move {
            let announcer = Announcer::start(&pool);
            let (mut number, mut beats) = (0, tokio::time::interval(BEAT));
            while !*ended.borrow() {
                beats.tick().await;
                let phase = now.load(Ordering::SeqCst);
                let event = |to| (recipient(to), Event::new(format!("{phase} {number}")));
                let events: Vec<_> = (0..RECIPIENTS).map(event).collect();
                B::emit_all(&mut *pool.acquire().await.unwrap(), &events).await.unwrap();
                number += 1;
            }
            let _ = announcer.stop(STOP).await;
            number
        });
        Load { phase, ends, emits }
    }

    /// Begins the next phase, after the load has run for a while in this one.
    async fn next_phase(&self) {
        // A measurement needs events, and waits for no condition here.
        tokio::time::sleep(BEAT * 20).await;
        self.phase.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the load, and waits until all is processed. Checks that each event was applied once and in order, and
    /// returns the longest wait of each phase.
    async fn end<B: CellEngine>(self, db: &TestDb<B>) -> Vec<Duration> {
        self.ends.send_replace(true);
        let emitted = self.emits.await.unwrap();
        idle(db).await;
        let mut longest: BTreeMap<u32, u64> = BTreeMap::new();
        for number in 0..RECIPIENTS {
            let stored = eventbox::state::<Seen>(&db.pool, &recipient(number)).await.unwrap();
            let seen = stored.and_then(|stored| stored.state).unwrap();
            assert_eq!((seen.next, seen.wrong), (emitted, 0), "gap/{number}");
            for (phase, waited_us) in seen.longest_us {
                let longest = longest.entry(phase).or_default();
                *longest = (*longest).max(waited_us);
            }
        }
        longest.into_values().map(Duration::from_micros).collect()
    }
}

/// Waits until these processes share all shards, and work on them.
async fn shared<B: CellEngine>(db: &TestDb<B>, processes: &[Process]) {
    let share = 256_usize.div_ceil(processes.len());
    eventually(SOON, async || {
        let shards = admin::list_shards(&db.pool, &admin::ShardSelector::all()).await.unwrap();
        let works = |shard: &admin::ShardView| shard.state == admin::ShardState::Primary;
        let has = |process: &Process| shards.iter().filter(|shard| shard.holder == Some(process.worker)).count();
        shards.iter().all(works) && processes.iter().map(has).all(|held| (1..=share).contains(&held))
    })
    .await;
}

/// Kills a process with -9, and returns the time until other processes hold every shard that it held.
async fn taken_after_a_kill<B: CellEngine>(db: &TestDb<B>, mut victim: Process) -> Duration {
    let killed = Instant::now();
    victim.child.kill().await.unwrap();
    eventually(SOON, async || {
        let shards = admin::shards(&db.pool).await.unwrap();
        shards.iter().all(|lease| lease.expires_in.is_some() && lease.holder != Some(victim.worker))
    })
    .await;
    killed.elapsed()
}

fn terms(ttl: u64, renew: u64, check: u64) -> LeaseConfig {
    let mut leases = LeaseConfig::default();
    leases.lease_ttl = Duration::from_millis(ttl);
    leases.renew_interval = Duration::from_millis(renew);
    leases.check_interval = Duration::from_millis(check);
    leases
}

on_every_engine! {
    /// Case 14 of the acceptance cases: every shard of a process that is killed is taken within a term and a second,
    /// and no event is lost or applied twice.
    async fn the_shards_of_a_killed_process_are_taken_within_a_term_and_a_second(db) {
        let terms = terms(2_000, 500, 500);
        let mut processes = vec![Process::start(db, terms).await, Process::start(db, terms).await];
        shared(db, &processes).await;
        let load = Load::begin(db);
        load.next_phase().await;
        let taken = taken_after_a_kill(db, processes.remove(0)).await;
        load.next_phase().await;
        shared(db, &processes).await;
        let waited = load.end(db).await;
        println!("killed: its shards were taken after {taken:?}; longest waits before, during, after: {waited:?}");
        assert!(taken <= terms.lease_ttl + Duration::from_secs(1), "{taken:?}");
        for process in processes {
            process.stop().await;
        }
    }

    /// Case 15, with processes: one comes, and one goes, under load. No event is lost or applied twice.
    async fn processes_come_and_go_under_load(db) {
        let terms = terms(5_000, 1_000, 500);
        let mut processes = vec![Process::start(db, terms).await];
        shared(db, &processes).await;
        let load = Load::begin(db);
        load.next_phase().await;
        processes.push(Process::start(db, terms).await);
        shared(db, &processes).await;
        load.next_phase().await;
        processes.remove(0).stop().await;
        shared(db, &processes).await;
        let waited = load.end(db).await;
        println!("longest waits before, while one comes, while one goes: {waited:?}");
        for process in processes {
            process.stop().await;
        }
    }
}

/// Measures all hand-overs with the default terms, and prints a row for each.
async fn measure<B: CellEngine>(db: &TestDb<B>) {
    let terms = LeaseConfig::default();
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(db, terms).await);
    }
    shared(db, &processes).await;
    let load = Load::begin(db);
    load.next_phase().await;
    processes.push(Process::start(db, terms).await);
    shared(db, &processes).await;
    load.next_phase().await;
    processes.remove(0).stop().await;
    shared(db, &processes).await;
    load.next_phase().await;
    for _ in 0..processes.len() {
        processes.remove(0).stop().await;
        processes.push(Process::start(db, terms).await);
        shared(db, &processes).await;
    }
    load.next_phase().await;
    let taken = taken_after_a_kill(db, processes.remove(0)).await;
    let waited = load.end(db).await;
    let cases =
        ["nothing", "a process comes", "a process stops", "three are replaced, one after the other", "kill -9 of one"];
    #[allow(clippy::print_stdout, reason = "`cargo xtask handover` prints the table")]
    for (case, waited) in cases.iter().zip(&waited).chain([(&"the shards of the killed one are taken", &taken)]) {
        println!("| {} | {case} | {} ms |", B::FOLDER, waited.as_millis());
    }
    for process in processes {
        process.stop().await;
    }
    assert!(waited[1..4].iter().all(|waited| *waited <= ROLLING), "{waited:?}");
    let most = terms.lease_ttl + Duration::from_secs(1);
    assert!(taken <= most && waited[4] <= most, "{taken:?}, {waited:?}");
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "`cargo xtask handover` runs it, on a machine that does nothing else"]
async fn measured_on_postgres() {
    with_database("handover", async |db: &TestDb<sqlx::Postgres>| measure(db).await).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "`cargo xtask handover` runs it, on a machine that does nothing else"]
async fn measured_on_sqlite() {
    with_database("handover", async |db: &TestDb<sqlx::Sqlite>| measure(db).await).await;
}
