//! Eventbox at size: what grows with the number of events, and what many processes cost at rest.
//!
//! ```text
//! cargo bench --bench size                          10^5, then 2·10^7 events, of a tenth as many recipients
//! cargo bench --bench size -- --events 100000000    another size; 10^8 events need some 60 GB
//! cargo bench --bench size -- --processes 64        idle processes: statements and CPU of the server at rest
//! ```
//!
//! The benchmark needs a server of Postgres in DATABASE_URL, and makes a database of its own. An event has 200 bytes,
//! and every tenth has a name. For each size it prints the figures of each step, and their ratio to those of 10^5.
//! `docs/performance.md` has a result.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventbox::admin::{self, DoctorOptions};
use eventbox::dsset::{TombstoneKey, prune_slice};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const SMALL: u64 = 100_000;
const LARGE: u64 = 20_000_000;
const RECIPIENTS_PER_EVENT: u64 = 10;
const BATCH: u64 = 500;
const EMITTERS: u64 = 8;
/// One batch in so many has named events.
const NAMED: u64 = 10;
const RUNS: usize = 5;
const STOP: Duration = Duration::from_secs(60);
const PRUNED: u32 = 1_000;

/// Time for which idle processes are watched, after they have settled.
const WATCHED: Duration = Duration::from_secs(30);
const SETTLED: Duration = Duration::from_secs(15);

/// Unit of `/proc/PID/stat`, the same for every program.
const TICKS_A_SECOND: f64 = 100.0;

/// Word of the command line for a process that does nothing but hold its shards.
const MEMBER: &str = "--member";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number_after = |word: &str| {
        let at = arguments.iter().position(|argument| argument == word)?;
        Some(arguments[at + 1].parse::<u64>().unwrap())
    };
    let Some(server) = std::env::var("DATABASE_URL").ok().filter(|url| url.starts_with("postgres")) else {
        return println!("set DATABASE_URL to a server of Postgres on which databases may be created");
    };
    let server: PgConnectOptions = server.parse().unwrap();
    if let Some(at) = arguments.iter().position(|argument| argument == MEMBER) {
        return member(server.database(&arguments[at + 1])).await;
    }
    let name = format!("eventbox_size_{}", std::process::id());
    let mut maintenance = PgConnection::connect_with(&server).await.unwrap();
    match number_after("--processes") {
        Some(processes) => {
            create(&mut maintenance, &name).await;
            at_rest(&open(server.clone().database(&name)).await, &name, processes).await;
            drop_database(&mut maintenance, &name).await;
        }
        None => {
            let mut first = None;
            for events in [SMALL, number_after("--events").unwrap_or(LARGE)] {
                create(&mut maintenance, &name).await;
                let figures = sized(&open(server.clone().database(&name)).await, events).await;
                print(events, &figures, first.get_or_insert(figures.clone()));
                drop_database(&mut maintenance, &name).await;
            }
        }
    }
}

async fn create(maintenance: &mut PgConnection, name: &str) {
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(maintenance).await.unwrap();
}

async fn drop_database(maintenance: &mut PgConnection, name: &str) {
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(maintenance).await.unwrap();
}

async fn open(options: PgConnectOptions) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(16).connect_with(options).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    pool
}

/// A figure of a step: its name, its value, and its unit.
type Figure = (&'static str, f64, &'static str);

fn print(events: u64, figures: &[Figure], first: &[Figure]) {
    println!("\n{events} events of {} recipients", events / RECIPIENTS_PER_EVENT);
    for ((what, value, unit), (_, small, _)) in figures.iter().zip(first) {
        println!("  {what:<58} {value:>12.1} {unit:<9} {:>7.2}", value / small);
    }
}

/// Counts its events.
struct Counter;

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// Fills a database, looks at it, drains it and cleans it up.
async fn sized(pool: &PgPool, events: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    let rate = |count: u64, since: Instant| count as f64 / since.elapsed().as_secs_f64();
    let recipients = events / RECIPIENTS_PER_EVENT;

    let since = Instant::now();
    let named = fill(pool, events, recipients).await;
    figures.push(("emit", rate(events, since), "events/s"));
    figures.push(("room of the events", megabytes(pool, "eventbox_event").await, "MB"));
    vacuum(pool, "eventbox_event").await;
    looks(pool, "beside all events", &mut figures).await;

    let before = memory("VmRSS");
    let runtime = Runtime::builder(pool.clone()).reducer("order", Counter).start().await.unwrap();
    let since = Instant::now();
    while runtime.stats().consumed == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    figures.push(("first turn after the start", since.elapsed().as_secs_f64() * 1e3, "ms"));
    let mut most = before;
    while runtime.stats().consumed < events {
        most = most.max(memory("VmRSS"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures.push(("drain", rate(events, since), "events/s"));
    figures.push(("memory of the runtime at most", most - before, "MB"));
    figures.push(("memory of the runtime, drained", memory("VmRSS") - before, "MB"));
    assert!(runtime.stop(STOP).await.complete);
    figures.push(("one event, to its turn, beside dead rows", one_event(pool).await, "ms"));
    looks(pool, "beside dead rows", &mut figures).await;

    for (what, table) in [
        ("vacuum of the events", "eventbox_event"),
        ("vacuum of the states", "eventbox_state"),
        ("vacuum of the names", "eventbox_tombstone"),
    ] {
        let since = Instant::now();
        vacuum(pool, table).await;
        figures.push((what, since.elapsed().as_secs_f64() * 1e3, "ms"));
    }
    figures.push(("one event, to its turn, after the vacuum", one_event(pool).await, "ms"));
    for (what, deletes) in [("names marked by the pruner", false), ("names deleted by the pruner", true)] {
        let since = Instant::now();
        let pruned = prune(pool, deletes).await;
        assert_eq!(pruned, named, "{what}");
        figures.push((what, rate(pruned, since), "names/s"));
    }
    figures
}

/// Emits events in batches from several tasks. Event n goes to recipient n modulo their number. Returns the number of
/// named events.
async fn fill(pool: &PgPool, events: u64, recipients: u64) -> u64 {
    // Each task has batches with names, one in every ten of its own.
    let is_named = |batch: u64| (batch / EMITTERS).is_multiple_of(NAMED);
    let tasks = (0..EMITTERS).map(|task| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for batch in (task..events / BATCH).step_by(EMITTERS as usize) {
                let event = |number: u64| {
                    let to = Recipient::new("order", (number % recipients).to_string()).unwrap();
                    let event = Event::new([b'x'; 200].to_vec());
                    match is_named(batch) {
                        true => (to, event.named(format!("click-{number}"))),
                        false => (to, event),
                    }
                };
                let events: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).map(event).collect();
                eventbox::emit_all(&pool, &events).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    (0..events / BATCH).filter(|batch| is_named(*batch)).count() as u64 * BATCH
}

/// Measures what an operator asks.
async fn looks(pool: &PgPool, when: &str, figures: &mut Vec<Figure>) {
    let of = Recipient::new("order", "7").unwrap();
    let names = match when {
        "beside dead rows" => ["overview beside dead rows", "doctor beside dead rows", "why beside dead rows"],
        _ => ["overview", "doctor", "why"],
    };
    let times = [
        median(async || drop(admin::overview(pool).await.unwrap())).await,
        median(async || drop(admin::doctor(pool, &DoctorOptions::default()).await.unwrap())).await,
        median(async || drop(admin::why(pool, &of).await.unwrap())).await,
    ];
    figures.extend(names.into_iter().zip(times).map(|(name, time)| (name, time.as_secs_f64() * 1e3, "ms")));
}

async fn median(mut ask: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let since = Instant::now();
        ask().await;
        times.push(since.elapsed());
    }
    times.sort();
    times[RUNS / 2]
}

/// Emits an event, and returns the milliseconds until the end of its turn in a process without wake-ups that starts
/// then: the claims of the shards, a walk over them, and the turn.
async fn one_event(pool: &PgPool) -> f64 {
    let to = Recipient::new("order", "one more").unwrap();
    eventbox::emit(pool, &to, Event::new("x")).await.unwrap();
    let since = Instant::now();
    let runtime = Runtime::builder(pool.clone()).reducer("order", Counter).start().await.unwrap();
    while runtime.stats().consumed == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let time = since.elapsed().as_secs_f64() * 1e3;
    assert!(runtime.stop(STOP).await.complete);
    time
}

/// Walks the names of all shards once. Returns the number of those that were marked or deleted.
async fn prune(pool: &PgPool, deletes: bool) -> u64 {
    let delay = if deletes { Duration::ZERO } else { Duration::from_secs(3_600) };
    let mut count = 0;
    for shard in 0..=u8::MAX {
        let mut after: Option<TombstoneKey> = None;
        loop {
            let mut tx = pool.begin().await.unwrap();
            let limit = PRUNED.try_into().unwrap();
            let pruned = prune_slice::<sqlx::Postgres>(&mut tx, shard, after.as_ref(), limit, delay).await.unwrap();
            tx.commit().await.unwrap();
            count += if deletes { pruned.deleted } else { pruned.stamped };
            after = pruned.next;
            if after.is_none() {
                break;
            }
        }
    }
    count
}

async fn vacuum(pool: &PgPool, table: &str) {
    sqlx::raw_sql(AssertSqlSafe(format!("VACUUM (ANALYZE) {table}"))).execute(pool).await.unwrap();
}

async fn megabytes(pool: &PgPool, table: &str) -> f64 {
    let size = sqlx::query_scalar::<_, i64>("SELECT pg_total_relation_size($1::text::regclass)::int8").bind(table);
    size.fetch_one(pool).await.unwrap() as f64 / 1e6
}

/// Megabytes of a line of `/proc/self/status`; 0 where there is none.
fn memory(of: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

/// Counts the statements of this process.
struct Statements;

static STATEMENTS: AtomicU64 = AtomicU64::new(0);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            STATEMENTS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A process of the service that has nothing to do. It prints its statements for each line that it reads.
async fn member(options: PgConnectOptions) {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Statements)).unwrap();
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let runtime = Runtime::builder(pool).reducer("order", Counter).start().await.unwrap();
    let asked = tokio::task::spawn_blocking(|| {
        let mut question = [0];
        while std::io::stdin().read(&mut question).unwrap() > 0 {
            println!("{}", STATEMENTS.load(Ordering::Relaxed));
        }
    });
    asked.await.unwrap();
    assert!(runtime.stop(STOP).await.complete);
}

/// Measures idle processes on one database.
async fn at_rest(pool: &PgPool, database: &str, processes: u64) {
    use std::io::{BufRead, BufReader, Write};
    let mut members: Vec<_> = (0..processes)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([MEMBER, database]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let answers = BufReader::new(child.stdout.take().unwrap());
            (child, answers)
        })
        .collect();
    let mut count = || -> u64 {
        let counts = members.iter_mut().map(|(child, answers)| {
            child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
            let mut answer = String::new();
            answers.read_line(&mut answer).unwrap();
            answer.trim().parse::<u64>().unwrap()
        });
        counts.sum()
    };
    // All processes hold their share of the shards before the watch starts.
    while admin::overview(pool).await.unwrap().members.len() < processes as usize {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(SETTLED).await;
    let (statements, ticks, since) = (count(), ticks_of_server(pool).await, Instant::now());
    tokio::time::sleep(WATCHED).await;
    let seconds = since.elapsed().as_secs_f64();
    let (statements, ticks) = (count() - statements, ticks_of_server(pool).await - ticks);
    let a_second = statements as f64 / seconds;
    println!("{processes} idle processes for {seconds:.0} s: {a_second:.1} statements/s");
    println!("  of each process         {:>8.2} statements/s", a_second / processes as f64);
    println!("  processor of the server {:>8.1} % of one core", ticks / TICKS_A_SECOND / seconds * 100.0);
    for (mut child, _) in members {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

/// CPU time of the server and its processes, in hundredths of a second; 0 when the server is on another machine.
async fn ticks_of_server(pool: &PgPool) -> f64 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let Some(checkpointer) = sqlx::query_scalar::<_, i32>(sql).fetch_optional(pool).await.unwrap() else { return 0.0 };
    let Some(postmaster) = stat(&checkpointer.to_string()).map(|fields| fields[1]) else { return 0.0 };
    let mut ticks = 0.0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        match stat(&name) {
            Some(fields) if name == postmaster.to_string() => ticks += (fields[11..15].iter().sum::<i64>()) as f64,
            Some(fields) if fields[1] == postmaster => ticks += (fields[11] + fields[12]) as f64,
            _ => {}
        }
    }
    ticks
}

/// Fields of `/proc/PID/stat` behind the name.
fn stat(process: &str) -> Option<Vec<i64>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}
