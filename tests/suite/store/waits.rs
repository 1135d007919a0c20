//! Statements of Postgres that wait for a lock for longer than a term. Their times are those of their start, so the
//! rows that others wrote meanwhile look as if they came from the future.

use eventbox::{Event, Pruner, PrunerConfig, Recipient};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres};
use uuid::Uuid;

use crate::support::source::statement;
use crate::support::{LOCK_WAITS, SOON, TestDb, eventually, with_database};

/// A term that every wait exceeds.
const TERM_US: i64 = 1;

/// Runs a statement in the background. Returns the task, which has the number of its rows.
async fn started(
    db: &TestDb<Postgres>,
    name: &str,
    bind: impl FnOnce(Query) -> Query,
) -> tokio::task::JoinHandle<Result<u64, sqlx::Error>> {
    let (sql, mut conn) = (statement("postgres", name), db.connect().await);
    let query = bind(sqlx::query(AssertSqlSafe(sql)));
    tokio::spawn(async move { Ok(query.execute(&mut conn).await?.rows_affected()) })
}

type Query = sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments>;

/// Opens a transaction that has run a statement, and holds its locks.
async fn held(db: &TestDb<Postgres>, sql: &str) -> PgConnection {
    let mut conn = db.connect().await;
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {sql}"))).execute(&mut conn).await.unwrap();
    conn
}

/// Waits until a statement waits for a lock.
async fn wait_of_a_statement(db: &TestDb<Postgres>) {
    eventually(SOON, async || db.number(LOCK_WAITS).await > 0).await;
}

async fn rolled_back(mut conn: PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// A claim that waits for one lease leaves another lease to the holder that renewed it meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_takes_no_renewed_lease() {
    with_database("a_claim_that_waits", async |db: &TestDb<Postgres>| {
        let (holder, other) = (Uuid::now_v7(), Uuid::now_v7());
        db.run(format_args!("UPDATE eventbox_lease SET holder = '{holder}', expires_at_us = 1 WHERE shard < 3")).await;
        let lock = held(db, "UPDATE eventbox_lease SET pinned = NULL WHERE shard = 0").await;
        let mask: String = (0..256).map(|shard| if shard < 3 { '1' } else { '0' }).collect();
        let claim = started(db, "CLAIM_LEASES", |query| query.bind(mask).bind(other).bind(TERM_US).bind(2 * TERM_US));
        let claim = claim.await;
        wait_of_a_statement(db).await;
        // Rows that the claim has locked before its wait would be skipped here, and the count below would differ.
        let renewal = "(extract(epoch FROM statement_timestamp()) * 1000000)::int8 + 600000000";
        let renew = format!(
            "UPDATE eventbox_lease SET expires_at_us = {renewal} WHERE shard IN (
                 SELECT shard FROM eventbox_lease WHERE shard IN (1, 2) FOR UPDATE SKIP LOCKED)"
        );
        db.run(renew).await;
        let renewed = db.number("SELECT count(*) FROM eventbox_lease WHERE expires_at_us > 1").await;
        rolled_back(lock).await;
        let claimed = claim.await.unwrap().unwrap();
        assert_eq!((renewed, claimed), (2, 1));
        let theirs = format!("SELECT count(*) FROM eventbox_lease WHERE holder = '{holder}' AND generation = 0");
        assert_eq!(db.number(theirs).await, 2);
    })
    .await;
}

/// A removal of silent members that waits for one of them leaves another member that beats meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_waits_leaves_a_member_that_beats() {
    with_database("a_removal_that_waits", async |db: &TestDb<Postgres>| {
        for address in ["first", "second"] {
            db.run(format_args!(
                "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
                 VALUES (gen_random_uuid(), '{address}', 1, false, 1)"
            ))
            .await;
        }
        let lock = held(db, "UPDATE eventbox_member SET exiting = true WHERE address = 'first'").await;
        let removal = started(db, "DELETE_SILENT_MEMBERS", |query| query.bind(TERM_US)).await;
        wait_of_a_statement(db).await;
        db.run(
            "UPDATE eventbox_member SET heartbeat_at_us = (extract(epoch FROM statement_timestamp()) * 1000000)::int8
             WHERE address = 'second'",
        )
        .await;
        rolled_back(lock).await;
        assert_eq!(removal.await.unwrap().unwrap(), 1);
        assert_eq!(db.texts("SELECT address FROM eventbox_member").await, ["second"]);
    })
    .await;
}

/// A stream stays with the process that took it over while another process waited to take it over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_taken_over_during_a_wait_stays() {
    with_database("a_stream_that_was_taken_over", async |db: &TestDb<Postgres>| {
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        db.run(format_args!("INSERT INTO eventbox_stream VALUES ('p', 's', '{}', '{{}}', 1)", Uuid::now_v7())).await;
        let take = format!(
            "UPDATE eventbox_stream SET worker = '{first}',
                 started_at_us = (extract(epoch FROM statement_timestamp()) * 1000000)::int8"
        );
        let mut lock = held(db, "SELECT 1 FROM eventbox_stream FOR UPDATE").await;
        let taking =
            started(db, "TAKE_STREAM", |query| query.bind("p").bind("s").bind(second).bind("{}").bind(TERM_US));
        let taking = taking.await;
        wait_of_a_statement(db).await;
        sqlx::raw_sql(AssertSqlSafe(format!("{take}; COMMIT"))).execute(&mut lock).await.unwrap();
        assert_eq!(taking.await.unwrap().unwrap(), 0);
        assert_eq!(db.texts("SELECT worker::text FROM eventbox_stream").await, [first.to_string()]);
    })
    .await;
}

/// The tombstone delay begins behind the removal of the event, also for a pruner that waited for the table while the
/// event was removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_stamped_behind_the_removal_that_the_pruner_waited_for() {
    with_database("a_name_is_stamped_behind", async |db: &TestDb<Postgres>| {
        let to = Recipient::new("cell", "1").unwrap();
        eventbox::emit(&db.pool, &to, Event::new("x").named("n")).await.unwrap();
        let mut lock = held(db, "LOCK TABLE eventbox_tombstone IN ACCESS EXCLUSIVE MODE").await;
        let pool = db.open(2);
        let pass = tokio::spawn(async move { Pruner::new(pool, PrunerConfig::default()).run_once().await });
        wait_of_a_statement(db).await;
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        sqlx::raw_sql("DELETE FROM eventbox_event").execute(&mut lock).await.unwrap();
        let removed_at: i64 = sqlx::query_scalar(now).fetch_one(&mut lock).await.unwrap();
        sqlx::raw_sql("COMMIT").execute(&mut lock).await.unwrap();
        assert_eq!(pass.await.unwrap().unwrap().stamped, 1);
        let stamped_at = db.number("SELECT gone_at_us FROM eventbox_tombstone").await;
        assert!(stamped_at >= removed_at, "stamped {} µs before the removal", removed_at - stamped_at);
    })
    .await;
}
