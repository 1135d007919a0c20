//! The plan of the statement that finds marked messages: it reads what is younger than an event, and not all messages.

use crate::support::TestDb;
use crate::support::source::statement;

#[cfg(feature = "postgres")]
#[tokio::test]
async fn marked_messages_are_found_by_the_primary_keys_of_postgres() {
    let db = TestDb::<sqlx::Postgres>::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    db.run(
        "INSERT INTO eventbox_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
         SELECT s, gen_random_uuid(), 'a', 'b', 1, 1, '\\x00' FROM generate_series(0, 255) s, generate_series(1, 200);
         INSERT INTO eventbox_dead_letter (shard, id, source, type, code, reason, attempts, dead_at_us, payload)
         SELECT shard, id, 'a', 'b', 'c', '', 1, 1, '\\x00' FROM eventbox_outbox;
         ANALYZE eventbox_outbox, eventbox_dead_letter",
    )
    .await;
    let (sql, nil) = (statement("postgres", "MARKED_MESSAGES"), uuid::Uuid::nil());
    for mode in ["force_custom_plan", "force_generic_plan"] {
        // One connection, because settings and prepared statements belong to a connection.
        let pool = db.open(1);
        let prepare = format!("SET plan_cache_mode = {mode}; PREPARE marked (bytea, uuid, int4, uuid, int8) AS {sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&pool).await.unwrap();
        let explain = format!("EXPLAIN (COSTS OFF) EXECUTE marked ('\\x00000000', '{nil}', 0, '{nil}', 1000)");
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&pool).await.unwrap();
        pool.close().await;
        let plan = plan.join("\n");
        for table in ["eventbox_outbox", "eventbox_dead_letter"] {
            assert!(plan.contains(&format!("{table}_pkey")), "{mode}:\n{plan}");
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{mode}:\n{plan}");
        }
    }
    db.remove().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn marked_messages_are_found_by_the_primary_keys_of_sqlite() {
    let db = TestDb::<sqlx::Sqlite>::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let explain = format!("EXPLAIN QUERY PLAN {}", statement("sqlite", "MARKED_MESSAGES"));
    let plan: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(sqlx::AssertSqlSafe(explain)).fetch_all(&db.pool).await.unwrap();
    let plan: Vec<String> = plan.into_iter().map(|(_, _, _, detail)| detail).collect();
    for table in ["eventbox_outbox", "eventbox_dead_letter"] {
        let wanted = format!("SEARCH {table} USING PRIMARY KEY (shard=? AND id>?)");
        assert!(plan.contains(&wanted), "{plan:#?}");
    }
    db.remove().await;
}
