//! The size of a service: what a million events cost in bytes, write-ahead log and CPU.
//!
//! ```text
//! cargo bench --bench sizing                 1,000,000 events a row; some minutes
//! cargo bench --bench sizing -- 100000       fewer events; the figures are for a million all the same
//! ```
//!
//! The benchmark uses a SQLite file and, if DATABASE_URL names a server, its own Postgres database. An event has 200
//! bytes. Each row begins with empty tables. `at rest` is the room of the tables that the row names, with their
//! indexes. CPU of the server is known for a server on this machine, when nobody else uses it. `docs/operating.md` has
//! a result.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::path::Path;
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeBuilder};
use eventbox::{Backend, BoxError, CloudEvent, Event, Outcome, Recipient, Reducer};
use sqlx::{AssertSqlSafe, Connection, Pool};

const EVENTS: usize = 1_000_000;
const BATCH: usize = 500;
const RECIPIENTS: usize = 1_000;
const VALUE: [u8; 200] = [b'x'; 200];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const STOP: Duration = Duration::from_secs(60);

/// Unit of `/proc/PID/stat`, the same for every program.
const TICKS_A_SECOND: f64 = 100.0;

/// Fewer single emits, because each one is a commit.
const SINGLES: usize = 20;

/// Tables that are emptied before a row.
const TABLES: [&str; 6] =
    ["eventbox_event", "eventbox_state", "eventbox_timer", "eventbox_tombstone", "eventbox_outbox", "eventbox_journal"];

#[tokio::main]
async fn main() {
    let events = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(EVENTS);
    println!("{:<50} {:>9} {:>9} {:>11} {:>10}", "a million …", "at rest", "log", "service CPU", "server CPU");
    if cfg!(debug_assertions) {
        println!("(a build without optimization: the CPU of the service is not shown)");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sizing.sqlite3");
    let options = eventbox::sqlite_options(&file).pragma("wal_autocheckpoint", "0");
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(8).connect_with(options).await.unwrap();
    println!("SQLite");
    rows(pool, events).await;
    match std::env::var("DATABASE_URL") {
        Ok(url) if url.starts_with("postgres") => on_postgres(&url, events).await,
        _ => println!("Postgres: set DATABASE_URL to a server on which databases may be created"),
    }
}

async fn on_postgres(url: &str, events: usize) {
    let server: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let name = format!("eventbox_sizing_{}", std::process::id());
    let mut admin = sqlx::PgConnection::connect_with(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(16).connect_with(server.database(&name)).await;
    println!("Postgres");
    rows(pool.unwrap(), events).await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}

/// What differs between the engines.
trait Engine: Backend {
    fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = ()> + Send;
    fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> impl Future<Output = ()> + Send;
    fn run(pool: &Pool<Self>, sql: String) -> impl Future<Output = ()> + Send;
    fn empty(pool: &Pool<Self>) -> impl Future<Output = ()> + Send;
    /// Returns the bytes of these tables with their indexes; on SQLite of everything.
    fn at_rest(pool: &Pool<Self>, tables: &[&str]) -> impl Future<Output = i64> + Send;
    /// Returns the bytes that were written to the log so far.
    fn log(pool: &Pool<Self>) -> impl Future<Output = i64> + Send;
    /// Returns a process of the server.
    fn server(pool: &Pool<Self>) -> impl Future<Output = Option<i32>> + Send;
}

macro_rules! emits {
    () => {
        async fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) {
            eventbox::emit(pool, to, event).await.unwrap();
        }

        async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) {
            eventbox::emit_all(pool, events).await.unwrap();
        }

        async fn run(pool: &Pool<Self>, sql: String) {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
        }
    };
}

impl Engine for sqlx::Postgres {
    emits!();

    async fn empty(pool: &Pool<Self>) {
        Self::run(pool, format!("TRUNCATE {}; CHECKPOINT", TABLES.join(", "))).await;
    }

    async fn at_rest(pool: &Pool<Self>, tables: &[&str]) -> i64 {
        let sql = "SELECT COALESCE(sum(pg_total_relation_size(name::regclass)), 0)::int8 FROM unnest($1::text[]) name";
        let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
        sqlx::query_scalar(sql).bind(tables).fetch_one(pool).await.unwrap()
    }

    async fn log(pool: &Pool<Self>) -> i64 {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8";
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    }

    async fn server(pool: &Pool<Self>) -> Option<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        sqlx::query_scalar(sql).fetch_optional(pool).await.unwrap()
    }
}

impl Engine for sqlx::Sqlite {
    emits!();

    async fn empty(pool: &Pool<Self>) {
        let delete = TABLES.map(|table| format!("DELETE FROM {table};")).join(" ");
        Self::run(pool, format!("{delete} PRAGMA wal_checkpoint(TRUNCATE)")).await;
    }

    async fn at_rest(pool: &Pool<Self>, _tables: &[&str]) -> i64 {
        let sql = "SELECT (page_count - freelist_count) * page_size
                   FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    }

    // Without checkpoints the log only grows.
    async fn log(pool: &Pool<Self>) -> i64 {
        let sql = "SELECT file FROM pragma_database_list WHERE name = 'main'";
        let file: String = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        std::fs::metadata(format!("{file}-wal")).map_or(0, |log| log.len().try_into().unwrap())
    }

    async fn server(_pool: &Pool<Self>) -> Option<i32> {
        None
    }
}

/// Counts its events, and publishes a message for each if it is told to.
struct Counter {
    publishes: bool,
}

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let messages = if self.publishes { events } else { &[] };
        let message = |_: &Event| {
            let message = CloudEvent::builder("shop", "order.grown").subject(to.key());
            message.payload(VALUE.to_vec()).build()
        };
        let messages = messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + events.len() as u64).consuming(events).publishing(messages))
    }
}

/// The counters when a row begins.
struct Watch {
    log: i64,
    service_ticks: Option<u64>,
    server_ticks: Option<u64>,
}

impl Watch {
    async fn start<B: Engine>(pool: &Pool<B>) -> Self {
        let server_ticks = B::server(pool).await.and_then(parent_of).and_then(ticks_below);
        let service_ticks = ticks_of("self").filter(|_| !cfg!(debug_assertions));
        Watch { log: B::log(pool).await, service_ticks, server_ticks }
    }

    /// Prints a row, for a million: the room of the tables now, and what was used since the start.
    async fn print<B: Engine>(self, pool: &Pool<B>, what: &str, tables: &[&str], count: usize) {
        let now = Watch::start(pool).await;
        let megabytes = |bytes: i64| format!("{:.0} MB", bytes as f64 / count as f64);
        let seconds = |now: Option<u64>, then: Option<u64>| match (now, then) {
            (Some(now), Some(then)) => format!("{:.1} s", (now - then) as f64 / TICKS_A_SECOND / count as f64 * 1e6),
            _ => "–".to_owned(),
        };
        let at_rest = if tables.is_empty() { "–".to_owned() } else { megabytes(B::at_rest(pool, tables).await) };
        println!(
            "  {what:<48} {at_rest:>9} {:>9} {:>11} {:>10}",
            megabytes(now.log - self.log),
            seconds(now.service_ticks, self.service_ticks),
            seconds(now.server_ticks, self.server_ticks),
        );
    }
}

/// Fields of `/proc/PID/stat` behind the name, if the system has them.
fn stat(process: &str) -> Option<Vec<i64>> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn parent_of(process: i32) -> Option<i64> {
    stat(&process.to_string())?.get(1).copied()
}

/// CPU time of a process in hundredths of a second.
fn ticks_of(process: &str) -> Option<u64> {
    let fields = stat(process)?;
    u64::try_from(fields.get(11)? + fields.get(12)?).ok()
}

/// CPU time of a process, of its children and of those that have ended.
fn ticks_below(parent: i64) -> Option<u64> {
    let ended = stat(&parent.to_string()).and_then(|fields| Some(fields.get(13)? + fields.get(14)?))?;
    let mut ticks = ticks_of(&parent.to_string())? + u64::try_from(ended).ok()?;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let process = process.file_name().to_string_lossy().into_owned();
        if stat(&process).is_some_and(|fields| fields.get(1) == Some(&parent)) {
            ticks += ticks_of(&process).unwrap_or(0);
        }
    }
    Some(ticks)
}

fn order(number: usize) -> Recipient {
    Recipient::new("order", number.to_string()).unwrap()
}

/// Emits events, 500 at a time. Event n goes to recipient n modulo their number.
async fn fill<B: Engine>(pool: &Pool<B>, events: usize, recipients: usize, event: impl Fn(usize) -> Event) {
    for from in (0..events).step_by(BATCH) {
        let numbers = from..events.min(from + BATCH);
        let batch: Vec<_> = numbers.map(|number| (order(number % recipients), event(number))).collect();
        B::emit_all(pool, &batch).await;
    }
}

fn plain(_: usize) -> Event {
    Event::new(VALUE.to_vec())
}

async fn consume<B: Engine>(builder: RuntimeBuilder<B>, events: usize) {
    let runtime = builder.start().await.unwrap();
    while runtime.stats().consumed < events as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(runtime.stop(STOP).await.complete);
}

/// Emits `events` events from 16 tasks, each with its own commit.
async fn singly<B: Engine>(pool: &Pool<B>, events: usize) {
    let tasks = (0..16).map(|task| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for number in (task..events).step_by(16) {
                B::emit(&pool, &order(number % RECIPIENTS), plain(number)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Empties the tables, and starts the watch.
async fn begin<B: Engine>(pool: &Pool<B>) -> Watch {
    B::empty(pool).await;
    Watch::start(pool).await
}

async fn rows<B: Engine>(pool: Pool<B>, events: usize) {
    eventbox::migrate(&pool).await.unwrap();
    let runtime = |publishes| Runtime::builder(pool.clone()).reducer("order", Counter { publishes });

    let watch = begin(&pool).await;
    fill(&pool, events, RECIPIENTS, plain).await;
    watch.print(&pool, "events, emitted 500 at a time, that wait", &["eventbox_event"], events).await;
    let watch = Watch::start(&pool).await;
    consume(runtime(false), events).await;
    watch.print(&pool, "events of 1,000 recipients, consumed", &[], events).await;

    let watch = begin(&pool).await;
    singly(&pool, events / SINGLES).await;
    watch.print(&pool, "events, each emitted by itself", &["eventbox_event"], events / SINGLES).await;

    let named = |number: usize| plain(number).named(format!("click-{number:030}"));
    let watch = begin(&pool).await;
    fill(&pool, events, RECIPIENTS, named).await;
    watch.print(&pool, "events with names that wait", &["eventbox_event", "eventbox_tombstone"], events).await;
    let watch = Watch::start(&pool).await;
    consume(runtime(false), events).await;
    watch.print(&pool, "names of consumed events, until forgotten", &["eventbox_tombstone"], events).await;

    let watch = begin(&pool).await;
    fill(&pool, events, RECIPIENTS, |number| plain(number).due_in(DAY)).await;
    watch.print(&pool, "timers", &["eventbox_timer"], events).await;

    let _ = begin(&pool).await;
    fill(&pool, events, events, plain).await;
    let watch = Watch::start(&pool).await;
    consume(runtime(false), events).await;
    watch.print(&pool, "recipients with a small state, one event each", &["eventbox_state"], events).await;

    let _ = begin(&pool).await;
    fill(&pool, events, RECIPIENTS, plain).await;
    let watch = Watch::start(&pool).await;
    consume(runtime(true), events).await;
    watch.print(&pool, "messages, published by turns, that wait", &["eventbox_outbox"], events).await;

    let _ = begin(&pool).await;
    fill(&pool, events, RECIPIENTS, plain).await;
    let watch = Watch::start(&pool).await;
    consume(runtime(false).journal("order", DAY), events).await;
    watch.print(&pool, "consumed events in a journal", &["eventbox_journal"], events).await;
    pool.close().await;
}
