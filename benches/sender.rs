//! Compares a `Sender` and timers with one INSERT for each commit. Both sides alternate in one run on one machine.
//!
//! ```text
//! cargo bench --bench sender -- ENGINE [--quick]     256 tasks with a Sender, 16 tasks with emits, against INSERTs
//! cargo bench --bench sender -- timers ENGINE        scans next to a million future timers, and the rate of due ones
//! ```
//!
//! ENGINE is `sqlite` or `postgres`. For `postgres`, DATABASE_URL names a server, on which the benchmark creates its
//! own database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eventbox::{Backend, Event, Recipient, Sender, SenderConfig};
use sqlx::{AssertSqlSafe, Pool};

const VALUE_BYTES: usize = 200;
const CONNECTIONS: u32 = 16;
const TASKS: usize = 256;
const FEW_TASKS: usize = 16;
const RECIPIENTS: usize = 1_000;
const TIMERS: usize = 1_000_000;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (rounds, length) = match args.contains(&"--quick") {
        true => (3, Duration::from_secs(1)),
        false => (7, Duration::from_secs(5)),
    };
    match args.as_slice() {
        ["postgres", ..] => with_postgres(async |pool| compare(pool, rounds, length).await).await,
        ["sqlite", ..] => with_sqlite(async |pool| compare(pool, rounds, length).await).await,
        ["timers", "postgres"] => with_postgres(timers).await,
        ["timers", "sqlite"] => with_sqlite(timers).await,
        _ => println!("see the head of benches/sender.rs for the arguments"),
    }
}

/// The statements that differ between the engines: the INSERT that a user would write, and a million timers.
trait Engine: Backend {
    fn insert(pool: &Pool<Self>, to: &Recipient, value: &[u8]) -> impl Future<Output = ()> + Send;
    fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = ()> + Send;
    fn run(pool: &Pool<Self>, sql: String) -> impl Future<Output = ()> + Send;
    const FUTURE: &'static str;
}

macro_rules! engine {
    ($engine:ty, $future:literal) => {
        impl Engine for $engine {
            const FUTURE: &'static str = $future;

            async fn insert(pool: &Pool<Self>, to: &Recipient, value: &[u8]) {
                let sql = "INSERT INTO eventbox_event (shard, recipient, id, value) VALUES ($1, $2, $3, $4)";
                let query = sqlx::query::<$engine>(sql).bind(i16::from(to.shard())).bind(to.as_str());
                query.bind(uuid::Uuid::now_v7()).bind(value).execute(pool).await.unwrap();
            }

            async fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) {
                eventbox::emit(pool, to, event).await.unwrap();
            }

            async fn run(pool: &Pool<Self>, sql: String) {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
            }
        }
    };
}
engine!(
    sqlx::Postgres,
    "INSERT INTO eventbox_timer
     SELECT n % 256, 4e15 + n, gen_random_uuid(), 'order/' || n % 1000, NULL, NULL, '\\x00'
     FROM generate_series(1, $N) n"
);
engine!(
    sqlx::Sqlite,
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N)
     INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, value)
     SELECT i % 256, 4000000000000000 + i, randomblob(16), 'order/' || (i % 1000), NULL, NULL, x'00' FROM n"
);

/// Returns the rate of calls of `tasks` tasks together.
async fn rate<F: Future<Output = ()> + Send>(
    tasks: usize,
    length: Duration,
    call: impl Fn(usize) -> F + Send + Sync + 'static,
) -> f64 {
    let (call, done, number) = (Arc::new(call), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (call, done, number) = (Arc::clone(&call), Arc::clone(&done), Arc::clone(&number));
        set.spawn(async move {
            while began.elapsed() < length {
                call(number.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while set.join_next().await.is_some() {}
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

async fn compare<B: Engine>(pool: Pool<B>, rounds: usize, length: Duration) {
    let boxes: Arc<Vec<Recipient>> =
        Arc::new((0..RECIPIENTS).map(|n| Recipient::new("order", n.to_string()).unwrap()).collect());
    let to = move |n: usize| boxes.get(n % RECIPIENTS).cloned().unwrap();
    let mut rates: [Vec<f64>; 5] = Default::default();
    let names =
        ["INSERT, 256 tasks", "Sender, 256 tasks", "Sender named, 256 tasks", "INSERT, 16 tasks", "emit, 16 tasks"];
    for round in 0..rounds {
        for (which, rates) in rates.iter_mut().enumerate() {
            B::run(&pool, "DELETE FROM eventbox_event; DELETE FROM eventbox_tombstone".to_owned()).await;
            let (pool, to) = (pool.clone(), to.clone());
            let sender = Sender::with(pool.clone(), SenderConfig::default());
            let value = vec![7_u8; VALUE_BYTES];
            let rate = match which {
                0 | 3 => {
                    let tasks = if which == 0 { TASKS } else { FEW_TASKS };
                    let call = move |n| {
                        let (pool, to, value) = (pool.clone(), to(n), value.clone());
                        async move { B::insert(&pool, &to, &value).await }
                    };
                    rate(tasks, length, call).await
                }
                1 | 2 => {
                    let call = move |n| {
                        let (sender, to, event) = (sender.clone(), to(n), Event::new(value.clone()));
                        let event = if which == 2 { event.named(format!("{round}/{n}")) } else { event };
                        async move { drop(sender.emit(&to, event).await.unwrap()) }
                    };
                    rate(TASKS, length, call).await
                }
                _ => {
                    let call = move |n| {
                        let (pool, to, event) = (pool.clone(), to(n), Event::new(value.clone()));
                        async move { B::emit(&pool, &to, event).await }
                    };
                    rate(FEW_TASKS, length, call).await
                }
            };
            rates.push(rate);
        }
    }
    let median = |rates: &[f64]| {
        let mut sorted = rates.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap()
    };
    let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
    for (name, rate) in names.iter().zip(&medians) {
        println!("{name:<26} {rate:>9.0} a second");
    }
    for (name, over, under) in [("Sender / INSERT", 1, 0), ("Sender named / INSERT", 2, 0), ("emit / INSERT", 4, 3)] {
        let of_rounds: Vec<f64> =
            rates.get(over).unwrap().iter().zip(rates.get(under).unwrap()).map(|(a, b)| a / b).collect();
        println!("{name:<26} {:>9.2} (median of {rounds} rounds)", median(&of_rounds));
    }
}

async fn timers<B: Engine>(pool: Pool<B>) {
    let shards: Vec<u8> = (0..=255).collect();
    let max = NonZeroU32::new(1_000).unwrap();
    let look = async |name: &str| {
        const LOOKS: u32 = 50;
        let began = Instant::now();
        for _ in 0..LOOKS {
            assert_eq!(eventbox::timer::move_due(&pool, &shards, max).await.unwrap().moved, 0);
        }
        println!("{name:<40} {:>9.3} ms a look at 256 shards", began.elapsed().as_secs_f64() * 1e3 / f64::from(LOOKS));
    };
    look("no timers").await;
    B::run(&pool, B::FUTURE.replace("$N", &TIMERS.to_string())).await;
    look("1,000,000 future timers").await;
    B::run(
        &pool,
        "UPDATE eventbox_timer SET due_at_us = due_at_us - 4000000000000000 WHERE due_at_us < 4000000000100001"
            .to_owned(),
    )
    .await;
    let (began, mut moved) = (Instant::now(), 0);
    loop {
        let done = eventbox::timer::move_due(&pool, &shards, max).await.unwrap();
        moved += done.moved;
        if done.next_in != Some(Duration::ZERO) {
            break;
        }
    }
    println!(
        "{:<40} {:>9.0} a second ({moved} moved)",
        "due ones, 1,000 a call",
        moved as f64 / began.elapsed().as_secs_f64()
    );
}

async fn with_sqlite(run: impl AsyncFnOnce(Pool<sqlx::Sqlite>)) {
    let directory = tempfile::tempdir().unwrap();
    let options = eventbox::sqlite_options(directory.path().join("bench.sqlite3"));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    run(pool).await;
}

async fn with_postgres(run: impl AsyncFnOnce(Pool<sqlx::Postgres>)) {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a Postgres server");
    let server: sqlx::postgres::PgConnectOptions = url.parse().expect("DATABASE_URL is a URL of Postgres");
    let admin = sqlx::PgPool::connect_with(server.clone()).await.unwrap();
    let name = format!("sender_bench_{}", std::process::id());
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_with(server.database(&name))
        .await
        .unwrap();
    eventbox::migrate(&pool).await.unwrap();
    run(pool.clone()).await;
    pool.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&admin).await.unwrap();
}
