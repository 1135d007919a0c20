//! The cost of a listing, counted in pages, does not grow with the backlog.

use crate::support::TestDb;
use crate::support::source::statement;

/// Limit of the listing that a turn of at most 100 events makes.
const LIMIT: u32 = 101;

/// Fills a box with events and returns the number of pages that its listing touches.
async fn pages(db: &TestDb<sqlx::Postgres>, key: &str, events: u32) -> u64 {
    let to = eventbox::Recipient::new("cell", key).unwrap();
    let shard = to.shard();
    // Keys in the order of their emits, like UUIDv7, and values of 100 bytes.
    db.run(format!(
        "INSERT INTO eventbox_event
         SELECT {shard}, '{to}', lpad(to_hex(n), 32, '0')::uuid, NULL, NULL, convert_to(repeat('x', 100), 'UTF8')
         FROM generate_series(1, {events}) n"
    ))
    .await;
    db.run("VACUUM ANALYZE eventbox_event").await;
    let sql = statement("postgres", "LIST_EVENTS");
    let pool = db.open(1);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PREPARE hot (int2, text, uuid, int8, int8) AS {sql}")))
        .execute(&pool)
        .await
        .unwrap();
    let nil = uuid::Uuid::nil();
    let explain = format!(
        "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE hot ({shard}, '{to}', '{nil}', {LIMIT}, 1000)"
    );
    let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_one(&pool).await.unwrap();
    pool.close().await;
    let top = &plan[0]["Plan"];
    assert_eq!(top["Actual Rows"].as_f64(), Some(f64::from(LIMIT)), "{plan:#}");
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|blocks| top[blocks].as_u64().unwrap()).sum()
}

/// A listing in a backlog 100 times as long touches at most twice as many pages.
#[tokio::test]
async fn listing_a_long_box_touches_few_pages() {
    let db = TestDb::empty("flat").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let (short, long) = (pages(&db, "short", 1_000).await, pages(&db, "long", 100_000).await);
    assert!(short > 0 && long <= 2 * short, "{short} pages with 1,000 events, {long} with 100,000");
    db.remove().await;
}
