//! Fairness: a long eventbox next to short ones, an open snapshot, and four processes on one file.
//!
//! ```text
//! cargo bench --bench fairness -- hot ENGINE [EVENTS]         an eventbox of 10^6 events next to 999 of ten
//! cargo bench --bench fairness -- snapshot ENGINE [SECONDS]   the cost of listing under load with an open snapshot
//! (600 s)
//! cargo bench --bench fairness -- processes [SECONDS]         the shares of four processes that write to one SQLite
//! file
//! ```
//!
//! ENGINE is `sqlite` or `postgres`. For `postgres`, DATABASE_URL names a server, on which the benchmark creates its
//! own database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]
#![allow(clippy::cast_precision_loss)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{Backend, BoxError, Event, Outcome, Recipient, Reducer, Sender};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use sqlx::{AssertSqlSafe, Pool};

const BOXES: usize = 999;
const EVENTS_A_BOX: usize = 10;
const HOT_EVENTS: usize = 1_000_000;
const EVENTS_A_SECOND: u32 = 500;
const PROCESSES: usize = 4;
const STOP: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(default, |arg| arg.parse().expect("a number"));
    match args.as_slice() {
        ["hot", "postgres", ..] => with_postgres(async |pool| hot(pool, number(2, HOT_EVENTS)).await).await,
        ["hot", "sqlite", ..] => with_sqlite(async |pool| hot(pool, number(2, HOT_EVENTS)).await).await,
        ["snapshot", "postgres", ..] => with_postgres(async |pool| snapshot(pool, number(2, 600)).await).await,
        ["snapshot", "sqlite", ..] => with_sqlite(async |pool| snapshot(pool, number(2, 600)).await).await,
        ["process", file, kind, ..] => process(file, kind, number(3, 10)).await,
        ["processes", ..] => processes(number(1, 10)).await,
        _ => println!("see the head of benches/fairness.rs for the arguments"),
    }
}

/// Counts its events.
struct Counter;

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// The statements that differ between the engines.
trait Engine: Backend {
    /// Fills one eventbox with `events` events.
    const FILL: &'static str;
    fn run(pool: &Pool<Self>, sql: String) -> impl Future<Output = ()> + Send;
    fn count(pool: &Pool<Self>, sql: &'static str) -> impl Future<Output = i64> + Send;
    fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> impl Future<Output = ()> + Send;
    /// Opens a snapshot in a transaction.
    fn hold(tx: &mut Self::Connection) -> impl Future<Output = ()> + Send;
}

macro_rules! engine {
    ($engine:ty, $hold:literal, $fill:literal) => {
        impl Engine for $engine {
            const FILL: &'static str = $fill;

            async fn run(pool: &Pool<Self>, sql: String) {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
            }

            async fn count(pool: &Pool<Self>, sql: &'static str) -> i64 {
                sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
            }

            async fn hold(tx: &mut <Self as sqlx::Database>::Connection) {
                sqlx::raw_sql($hold).execute(tx).await.unwrap();
            }

            async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) {
                for events in events.chunks(eventbox::limits::MAX_EMIT_EVENTS) {
                    eventbox::emit_all(pool, events).await.unwrap();
                }
            }
        }
    };
}
engine!(
    sqlx::Postgres,
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM eventbox_event",
    "INSERT INTO eventbox_event (shard, recipient, id, value)
     SELECT $S, '$R', ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '\\x00'
     FROM generate_series(1, $N) n;
     ANALYZE eventbox_event"
);
engine!(
    sqlx::Sqlite,
    "SELECT count(*) FROM eventbox_event",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N)
     INSERT INTO eventbox_event (shard, recipient, id, value)
     SELECT $S, '$R', unhex(printf('0000000000007000%016x', i)), x'00' FROM n"
);

async fn with_postgres(body: impl AsyncFnOnce(Pool<sqlx::Postgres>)) {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a Postgres server");
    let server = Pool::<sqlx::Postgres>::connect(&url).await.unwrap();
    let name = format!("eventbox_fairness_{}", std::process::id());
    sqlx::Postgres::run(&server, format!("CREATE DATABASE {name}")).await;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let pool =
        sqlx::postgres::PgPoolOptions::new().max_connections(16).connect_with(options.database(&name)).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    body(pool.clone()).await;
    pool.close().await;
    sqlx::Postgres::run(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

async fn with_sqlite(body: impl AsyncFnOnce(Pool<sqlx::Sqlite>)) {
    let directory = tempfile::tempdir().unwrap();
    body(sqlite(&directory.path().join("boxes.db").display().to_string()).await).await;
}

async fn sqlite(file: &str) -> Pool<sqlx::Sqlite> {
    let pool =
        sqlx::sqlite::SqlitePoolOptions::new().max_connections(8).connect_with(eventbox::sqlite_options(file)).await;
    let pool = pool.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    pool
}

async fn wait_until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn hot<B: Engine>(pool: Pool<B>, events: usize) {
    let hot = Recipient::new("hot", "1").unwrap();
    let fill = B::FILL.replace("$S", &hot.shard().to_string()).replace("$R", hot.as_str());
    B::run(&pool, fill.replace("$N", &events.to_string())).await;
    let others = (0..BOXES).map(|n| Recipient::new("other", n.to_string()).unwrap());
    let rows: Vec<_> = others.flat_map(|to| (0..EVENTS_A_BOX).map(move |_| (to.clone(), Event::new("x")))).collect();
    B::emit_all(&pool, &rows).await;

    let started = Instant::now();
    let runtime =
        Runtime::builder(pool.clone()).reducer("hot", Counter).reducer("other", Counter).start().await.unwrap();
    const OTHERS: &str =
        "SELECT count(*) FROM (SELECT 1 FROM eventbox_event WHERE recipient <> 'hot/1' LIMIT 1) AS others";
    wait_until(async || runtime.stats().consumed >= rows.len() as u64 && B::count(&pool, OTHERS).await == 0).await;
    let others_done = started.elapsed();
    println!("{}: {BOXES} eventboxes of {EVENTS_A_BOX} next to one of {events}: done after {others_done:.2?}", B::NAME);
    let all = (events + rows.len()) as u64;
    wait_until(async || runtime.stats().consumed == all).await;
    let all_done = started.elapsed();
    println!("{}: all done after {all_done:.2?}, {:.0} events/s", B::NAME, all as f64 / all_done.as_secs_f64());
    runtime.stop(STOP).await;
}

/// Returns the time spent in listing since the last call, and the part spent in scans, in microseconds.
fn listing_us(snapshotter: &Snapshotter) -> (f64, f64) {
    let (mut total, mut scans) = (0.0, 0.0);
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let is_listing = key.labels().any(|label| (label.key(), label.value()) == ("phase", "listing"));
        match value {
            DebugValue::Histogram(times) if key.name() == "eventbox_phase_seconds" && is_listing => {
                total += times.into_iter().map(|seconds| seconds.into_inner() * 1e6).sum::<f64>();
            }
            DebugValue::Histogram(times) if key.name() == "eventbox_runtime_scan_seconds" => {
                scans += times.into_iter().map(|seconds| seconds.into_inner() * 1e6).sum::<f64>();
            }
            _ => {}
        }
    }
    (total, scans)
}

async fn snapshot<B: Engine>(pool: Pool<B>, seconds: usize) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let runtime =
        Runtime::builder(pool.clone()).reducer("hot", Counter).reducer("other", Counter).start().await.unwrap();
    let mut holder = None;
    let window = Duration::from_secs((seconds as u64 / 10).max(1));
    let mut first = None;
    println!("window: the time of a turn's listing, and of the scan that found it");
    for number in 0..=10 {
        listing_us(&snapshotter);
        let (before, began) = (runtime.stats(), Instant::now());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_A_SECOND * 10);
        let mut sent = 0;
        while began.elapsed() < window {
            ticks.tick().await;
            // One eventbox gets half of the load.
            let to = |n: usize| {
                if n.is_multiple_of(2) {
                    Recipient::new("hot", "1")
                } else {
                    Recipient::new("other", (n % 100).to_string())
                }
            };
            let rows: Vec<_> = (sent..sent + 10).map(|n| (to(n).unwrap(), Event::new("x"))).collect();
            B::emit_all(&pool, &rows).await;
            sent += 10;
        }
        let now = runtime.stats();
        let turns = now.turns - before.turns;
        let (all, walks) = listing_us(&snapshotter);
        let of_turn = |us: f64| us / turns.max(1) as f64;
        let (boxes, of_walks) = (of_turn(all - walks), of_turn(walks));
        let what = if number == 0 { "without a snapshot" } else { "with one" };
        println!(
            "{number:>2} {what}: {} events, {turns} turns; listing {boxes:.0} µs, {:.2} × the first; \
             scans {of_walks:.0} µs, {:.1} % of the time",
            now.consumed - before.consumed,
            boxes / *first.get_or_insert(boxes),
            walks / 1e4 / began.elapsed().as_secs_f64(),
        );
        if number == 0 {
            let mut tx = pool.begin().await.unwrap();
            B::hold(&mut tx).await;
            holder = Some(tx);
        }
    }
    drop(holder);
    runtime.stop(STOP).await;
}

/// Runs one of the processes: writes as fast as it can, and prints its number of committed turns.
async fn process(file: &str, kind: &str, seconds: usize) {
    let pool = sqlite(file).await;
    let mut config = RuntimeConfig::default();
    config.leases = None;
    let runtime = Runtime::builder(pool.clone()).reducer(kind, Counter).config(config).start().await.unwrap();
    let sender = Sender::new(pool.clone());
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let tasks = (0..16).map(|n| {
        let (sender, to) = (sender.clone(), Recipient::new(kind, n.to_string()).unwrap());
        tokio::spawn(async move {
            while Instant::now() < until {
                sender.emit(&to, Event::new("x")).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    println!("{} {}", runtime.stats().rounds, runtime.stats().consumed);
    runtime.stop(STOP).await;
}

async fn processes(seconds: usize) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("boxes.db");
    sqlite(&file.display().to_string()).await.close().await;
    let children: Vec<_> = (0..PROCESSES)
        .map(|n| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("process").arg(&file).arg(format!("kind{n}")).arg(seconds.to_string());
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut found = Vec::new();
    for child in children {
        let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let numbers: Vec<u64> = out.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [rounds, events] = numbers.as_slice() else { panic!("a process printed {out:?}") };
        found.push((*rounds, *events));
    }
    let all: u64 = found.iter().map(|(rounds, _)| rounds).sum();
    for (number, (rounds, events)) in found.iter().enumerate() {
        println!("process {number}: {rounds} rounds ({:.0} %), {events} events", 100.0 * *rounds as f64 / all as f64);
    }
}
