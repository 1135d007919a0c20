//! The cost of what an operator asks. It must not grow with the backlog.
//!
//! ```text
//! cargo bench --bench views              100,000 to 10,000,000 events
//! cargo bench --bench views -- --quick   100,000 and 1,000,000 events
//! ```
//!
//! The benchmark uses a SQLite file and, if DATABASE_URL names a server, its own Postgres database. The events belong
//! to three kinds of 10,000 recipients each. For each size it prints the median time of each question, and its ratio to
//! that of the smallest size.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::time::{Duration, Instant};

use eventbox::admin::{self, InspectOptions, Order, RecipientQuery};
use eventbox::{Backend, Recipient};
use sqlx::{AssertSqlSafe, Connection, Pool};

const SIZES: [u32; 3] = [100_000, 1_000_000, 10_000_000];
const RUNS: usize = 11;

/// Names of the questions, in the order of their columns.
const QUESTIONS: [&str; 7] = ["overview", "page", "longest", "oldest", "inspect", "why", "outbox"];

#[tokio::main]
async fn main() {
    let sizes = if std::env::args().any(|arg| arg == "--quick") { &SIZES[..2] } else { &SIZES[..] };
    print!("{:<9} {:>11}", "engine", "events");
    QUESTIONS.iter().for_each(|name| print!(" {name:>16}"));
    println!("   (median of {RUNS}, ratio)");
    on_sqlite(sizes).await;
    match std::env::var("DATABASE_URL") {
        Ok(url) if url.starts_with("postgres") => on_postgres(&url, sizes).await,
        _ => println!("postgres    set DATABASE_URL to a server on which databases may be created"),
    }
}

async fn median(mut ask: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        ask().await;
        times.push(started.elapsed());
    }
    times.sort();
    times[RUNS / 2]
}

async fn ask<B: Backend>(engine: &str, events: u32, pool: &Pool<B>, first: &mut Option<[Duration; 7]>) {
    let of = Recipient::new("order", "7").unwrap();
    let listed = RecipientQuery::new().kind("order");
    let ranked = |order| RecipientQuery::new().kind("order").order(order).limit(20);
    let overview = admin::overview(pool).await.unwrap();
    assert_eq!(overview.kinds.len(), 3);
    let times = [
        median(async || drop(admin::overview(pool).await.unwrap())).await,
        median(async || drop(admin::recipients(pool, &listed).await.unwrap())).await,
        median(async || drop(admin::recipients(pool, &ranked(Order::Longest)).await.unwrap())).await,
        median(async || drop(admin::recipients(pool, &ranked(Order::Oldest)).await.unwrap())).await,
        median(async || drop(admin::inspect(pool, &of, &InspectOptions::default()).await.unwrap())).await,
        median(async || drop(admin::why(pool, &of).await.unwrap())).await,
        median(async || drop(admin::message_groups(pool).await.unwrap())).await,
    ];
    let first = first.get_or_insert(times);
    print!("{engine:<9} {events:>11}");
    for (time, first) in times.iter().zip(first) {
        let ratio = time.as_secs_f64() / first.as_secs_f64();
        print!(" {:>8.1} ms {ratio:>4.1}", time.as_secs_f64() * 1e3);
    }
    println!("   orders: {} wait", overview.kinds[1].waiting);
}

async fn on_sqlite(sizes: &[u32]) {
    let directory = tempfile::tempdir().unwrap();
    let options = eventbox::sqlite_options(directory.path().join("views.sqlite3"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let (mut first, mut filled) = (None, 0);
    for &events in sizes {
        // SQLite has no MD5, so the shards are those of another hash. No question looks at more than one recipient's.
        let fill = format!(
            "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value)
             WITH RECURSIVE n (i) AS (SELECT {filled} UNION ALL SELECT i + 1 FROM n WHERE i < {events} - 1)
             SELECT (i % 30000 * 2654435761 >> 8) % 256,
                    CASE i % 3 WHEN 0 THEN 'aircraft/' WHEN 1 THEN 'order/' ELSE 'run/' END || (i % 30000),
                    unhex(printf('01990000%024x', i)), NULL, NULL, zeroblob(100) FROM n"
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
        filled = events;
        ask("sqlite", events, &pool, &mut first).await;
    }
    pool.close().await;
}

async fn on_postgres(url: &str, sizes: &[u32]) {
    let server: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let name = format!("eventbox_views_{}", uuid::Uuid::new_v4().simple());
    let mut admin = sqlx::PgConnection::connect_with(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let pool = sqlx::PgPool::connect_with(server.database(&name)).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let (mut first, mut filled) = (None, 0);
    for &events in sizes {
        let fill = format!(
            "INSERT INTO eventbox_event
             SELECT get_byte(decode(md5(convert_to(r, 'UTF8')), 'hex'), 0), r,
                    ('01990000' || lpad(to_hex(i), 24, '0'))::uuid, NULL, NULL, convert_to(repeat('x', 100), 'UTF8')
             FROM (SELECT i, (ARRAY['aircraft/', 'order/', 'run/'])[i % 3 + 1] || i % 30000 AS r
                   FROM generate_series({filled}, {events} - 1) i) e"
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&pool).await.unwrap();
        sqlx::raw_sql("VACUUM ANALYZE eventbox_event").execute(&pool).await.unwrap();
        filled = events;
        ask("postgres", events, &pool, &mut first).await;
    }
    pool.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}
