//! A server that becomes read only while workers work, as in a fail-over to a standby that is not promoted yet.

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Postgres};

use super::{STOP, emit, idle, seen, tally, tallying};
use crate::support::{SOON, TestDb, eventually, with_database};

/// Health names the cause; the workers go on by themselves when writes are allowed again, and no event is blamed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_outlive_a_time_without_writes() {
    with_database("workers_outlive_a_time_without_writes", async |db: &TestDb<Postgres>| {
        let database = db.texts("SELECT current_database()::text").await.remove(0);
        let runtime = tallying(db.open(6)).start().await.unwrap();
        emit(db, &tally(1), ["a"]).await;
        idle(db).await;
        db.run(format_args!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
        let others = "datname = current_database() AND pid <> pg_backend_pid()";
        db.run(format_args!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")).await;
        let says = |text: &str| runtime.health().problems.iter().any(|problem| problem.contains(text));
        eventually(SOON, async || says("read-only transaction")).await;
        let writes = db.options().options([("default_transaction_read_only", "off")]);
        let writer = PgPoolOptions::new().max_connections(1).connect_with(writes).await.unwrap();
        let allow = format!("ALTER DATABASE {database} RESET default_transaction_read_only");
        sqlx::raw_sql(AssertSqlSafe(allow)).execute(&writer).await.unwrap();
        let pool = db.open(2);
        for n in 0..20 {
            let event = eventbox::Event::new("b");
            eventually(SOON, async || eventbox::emit(&pool, &tally(n), event.clone()).await.is_ok()).await;
        }
        idle(db).await;
        eventually(SOON, async || runtime.health().is_healthy()).await;
        assert_eq!(seen(db, &tally(1)).await, ["a", "b"]);
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
        runtime.stop(STOP).await;
    })
    .await;
}
