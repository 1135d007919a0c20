//! The cost of a listing in a long eventbox. It must not grow with the backlog.
//!
//! ```text
//! cargo bench --bench listing              eventboxes of 1,000 to 1,000,000 events
//! cargo bench --bench listing -- --quick   eventboxes of 1,000 to 100,000 events
//! ```
//!
//! The benchmark uses a SQLite file and, if DATABASE_URL names a server, its own Postgres database. For each size it
//! prints the time of a listing of 100 events and, on Postgres, the pages that the listing reads. The ratios compare
//! both with the smallest eventbox.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::time::{Duration, Instant};

use eventbox::{Backend, Recipient, admin};
use sqlx::{AssertSqlSafe, Connection, Pool};

const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
const LISTED: u32 = 100;
const RUNS: usize = 501;

#[tokio::main]
async fn main() {
    let sizes = if std::env::args().any(|arg| arg == "--quick") { &SIZES[..3] } else { &SIZES[..] };
    println!("engine      events   median of {RUNS} listings      ratio   pages   ratio");
    on_sqlite(sizes).await;
    match std::env::var("DATABASE_URL") {
        Ok(url) if url.starts_with("postgres") => on_postgres(&url, sizes).await,
        _ => println!("postgres    set DATABASE_URL to a server on which databases may be created"),
    }
}

fn owner(events: u32) -> Recipient {
    Recipient::new("box", events.to_string()).unwrap()
}

async fn median<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Duration {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        let listed = admin::events(pool, of, None, LISTED).await.unwrap();
        times.push(started.elapsed());
        assert_eq!(listed.len(), LISTED as usize);
    }
    times.sort();
    times[RUNS / 2]
}

fn print(engine: &str, events: u32, time: (Duration, Duration), pages: Option<(i64, i64)>) {
    let ratio = time.0.as_secs_f64() / time.1.as_secs_f64();
    print!("{engine:<9} {events:>8}   {:>24.1} µs {ratio:>7.2}", time.0.as_secs_f64() * 1e6);
    match pages {
        Some((pages, first)) => println!("   {pages:>5} {:>7.2}", pages as f64 / first as f64),
        None => println!(),
    }
}

async fn on_sqlite(sizes: &[u32]) {
    let directory = tempfile::tempdir().unwrap();
    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("listing.sqlite3")))
        .await
        .unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let mut first = None;
    for &events in sizes {
        let of = owner(events);
        let fill = format!(
            "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
             SELECT {}, '{of}', unhex(printf('%032x', i)), NULL, NULL, zeroblob(100) FROM n",
            of.shard()
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
        let time = median(&pool, &of).await;
        print("sqlite", events, (time, *first.get_or_insert(time)), None);
    }
    pool.close().await;
}

async fn on_postgres(url: &str, sizes: &[u32]) {
    let server: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let name = format!("eventbox_listing_{}", uuid::Uuid::new_v4().simple());
    let mut admin = sqlx::PgConnection::connect_with(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let pool = sqlx::PgPool::connect_with(server.database(&name)).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let mut first = None;
    for &events in sizes {
        let of = owner(events);
        let fill = format!(
            "INSERT INTO eventbox_event SELECT {}, '{of}', lpad(to_hex(n), 32, '0')::uuid, NULL, NULL,
                    convert_to(repeat('x', 100), 'UTF8')
             FROM generate_series(1, {events}) n",
            of.shard()
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
        sqlx::raw_sql("VACUUM ANALYZE eventbox_event").execute(&pool).await.unwrap();
        let (time, pages) = (median(&pool, &of).await, pages(&pool, &of).await);
        let (first_time, first_pages) = *first.get_or_insert((time, pages));
        print("postgres", events, (time, first_time), Some((pages, first_pages)));
    }
    pool.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}

/// Returns the statement from the library's source.
fn list_events() -> String {
    let source = include_str!("../src/store/inbox/event.rs");
    let statement = source.split("LIST_EVENTS: &str = \"").nth(1).unwrap().split("\";").next().unwrap();
    statement.to_owned()
}

async fn pages(pool: &sqlx::PgPool, of: &Recipient) -> i64 {
    let (shard, limit) = (i16::from(of.shard()), i64::from(LISTED));
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {}", list_events());
    let query = sqlx::query_scalar::<_, serde_json::Value>(AssertSqlSafe(explain));
    let plan = query.bind(shard).bind(of.as_str()).bind(uuid::Uuid::nil()).bind(limit).fetch_one(pool).await.unwrap();
    let top = &plan[0]["Plan"];
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|blocks| top[blocks].as_i64().unwrap()).sum()
}
