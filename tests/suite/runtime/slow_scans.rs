//! After a slow scan the log names the old transactions that make scans slow, and says nothing without them.

use std::time::Duration;

use eventbox::runtime::Runtime;
use sqlx::{PgPool, Postgres};

use super::{STOP, emit, tally, tallying};
use crate::support::cluster::Cluster;
use crate::support::log::Log;
use crate::support::{SOON, TestDb, eventually, with_database};

/// Number of scans that have waited for a table for longer than a scan may take. Other loops wait for it too.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND wait_event_type = 'Lock' AND query LIKE 'WITH RECURSIVE step%'
    AND query_start < clock_timestamp() - interval '150 ms'";

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Holds up a scan until it is slow. On a busy machine an earlier scan may have been slow too.
async fn slow_scan(pool: &PgPool, of_runtime: PgPool) -> Runtime<Postgres> {
    let runtime = tallying(of_runtime).start().await.unwrap();
    eventually(SOON, async || runtime.shards() == 256).await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE eventbox_event IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    eventually(SOON, async || number(pool, WAITING).await > 0).await;
    tx.rollback().await.unwrap();
    runtime
}

/// Opens a transaction with a snapshot on a connection of the pool, and returns it with the id of its process.
async fn reading(pool: &PgPool, application: &'static str) -> (sqlx::Transaction<'static, Postgres>, i32) {
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT set_config('application_name', $1, false)").bind(application).execute(&mut *tx).await.unwrap();
    // Another table than the one that is locked.
    let pid = "SELECT pg_backend_pid() FROM eventbox_migration LIMIT 1";
    let pid = sqlx::query_scalar(pid).fetch_one(&mut *tx).await.unwrap();
    (tx, pid)
}

#[tokio::test]
async fn a_slow_scan_without_an_old_transaction_is_no_warning() {
    let (log, _guard) = Log::listen();
    with_database("slow_scan_alone", async |db: &TestDb<Postgres>| {
        let runtime = slow_scan(&db.pool, db.open(5)).await;
        // The scan has ended when the runtime finds an event again.
        emit(db, &tally(1), 0..1).await;
        eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        runtime.stop(STOP).await;
    })
    .await;
    assert_eq!(log.lines(&["looking for work"]), Vec::<String>::new());
}

#[tokio::test]
async fn a_slow_scan_names_the_old_transactions() {
    let (log, _guard) = Log::listen();
    let cluster = Cluster::start();
    cluster.set("max_prepared_transactions = 5");
    let pool = cluster.pool(6);
    eventbox::migrate(&pool).await.unwrap();
    sqlx::raw_sql("BEGIN; CREATE TABLE mine (n int); PREPARE TRANSACTION 'left-over'").execute(&pool).await.unwrap();
    let (reader, pid) = reading(&pool, "reports").await;
    let old = "SELECT count(*) FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '6 s'";
    eventually(Duration::from_secs(30), async || number(&pool, old).await > 0).await;

    let runtime = slow_scan(&pool, cluster.pool(6)).await;
    let session = format!("session {pid} (role postgres, application \\\"reports\\\", idle in transaction)");
    let prepared = "prepared transaction \\\"left-over\\\" (role postgres)";
    eventually(SOON, async || log.lines(&["end that transaction", &session, prepared]).len() == 1).await;
    runtime.stop(STOP).await;
    drop(reader);
    assert_eq!(log.lines(&["looking for work"]).len(), 1, "once a minute");
}
