//! The plans of the pruner and of the set, which must follow the primary keys, whatever the tables hold.

use crate::support::TestDb;
use crate::support::source::statement;

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;

    /// Creates a database with 20,000 names in one shard, half of them with their event, and 20,000 unnamed events.
    async fn filled() -> TestDb<sqlx::Postgres> {
        let db = TestDb::empty("pruning_plans").await;
        eventbox::migrate(&db.pool).await.unwrap();
        db.run(
            "INSERT INTO eventbox_tombstone
             SELECT 3, 'aircraft/' || n % 100, 'name ' || n, gen_random_uuid() FROM generate_series(1, 20000) n;
             INSERT INTO eventbox_event
             SELECT shard, recipient, id, name, NULL, '' FROM eventbox_tombstone ORDER BY name LIMIT 10000;
             INSERT INTO eventbox_event
             SELECT 3, 'airport/EWR', gen_random_uuid(), NULL, NULL, '' FROM generate_series(1, 20000);
             INSERT INTO eventbox_dead_letter
             SELECT n % 16, gen_random_uuid(), 'airport/EWR', NULL, NULL, NULL, NULL, '', '', 1, 1, ''
             FROM generate_series(1, 5000) n;
             INSERT INTO eventbox_timer
             SELECT 3, n, gen_random_uuid(), 'airport/EWR', NULL, NULL, '' FROM generate_series(1, 20000) n;
             ANALYZE",
        )
        .await;
        db
    }

    async fn plan(db: &TestDb<sqlx::Postgres>, name: &str, types: &str, arguments: &str, mode: &str) -> String {
        let sql = statement("postgres", name);
        let pool = db.open(1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET plan_cache_mode = {mode}; PREPARE hot{types} AS {sql}")))
            .execute(&pool)
            .await
            .unwrap();
        let explain = format!("EXPLAIN (COSTS OFF) EXECUTE hot{arguments}");
        let lines: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&pool).await.unwrap();
        pool.close().await;
        lines.join("\n")
    }

    #[tokio::test]
    async fn pruning_uses_the_primary_keys() {
        let db = filled().await;
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let types = "(int2, text, text, text, text, int8, int8)";
            let arguments = "(3, 'aircraft/3', 'name 7', 'aircraft/99', 'name 999', 1000, 300000000)";
            let plan = plan(&db, "PRUNE_TOMBSTONES", types, arguments, mode).await;
            for key in
                ["eventbox_tombstone_pkey", "eventbox_event_pkey", "eventbox_timer_id", "eventbox_dead_letter_pkey"]
            {
                assert!(plan.contains(key), "{mode}:\n{plan}");
            }
            for table in ["eventbox_tombstone", "eventbox_event", "eventbox_timer"] {
                assert!(!plan.contains(&format!("Seq Scan on {table}")), "{mode}:\n{plan}");
            }
            assert!(!plan.contains("Hash"), "a hash join reads a whole box, {mode}:\n{plan}");
        }
        db.remove().await;
    }

    #[tokio::test]
    async fn a_set_is_listed_by_the_primary_key() {
        let db = filled().await;
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plan = plan(&db, "LIST_ITEMS", "(int2, text, int8, int8)", "(3, 'airport/EWR', 100, 1000)", mode).await;
            assert!(plan.contains("eventbox_event_pkey") && !plan.contains("Sort"), "{mode}:\n{plan}");
        }
        db.remove().await;
    }

    #[tokio::test]
    async fn shards_are_found_by_the_primary_key() {
        let db = filled().await;
        let plan = plan(&db, "LIST_TOMBSTONE_SHARDS", "", "", "force_generic_plan").await;
        assert!(plan.contains("eventbox_tombstone_pkey") && !plan.contains("Seq Scan"), "{plan}");
        db.remove().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;

    #[tokio::test]
    async fn pruning_uses_the_primary_keys() {
        let db = TestDb::<sqlx::Sqlite>::empty("pruning_plans").await;
        eventbox::migrate(&db.pool).await.unwrap();
        for name in [
            "END_OF_SLICE",
            "DELETE_TOMBSTONES",
            "REVIVE_TOMBSTONES",
            "STAMP_TOMBSTONES",
            "LIST_ITEMS",
            "LIST_TOMBSTONE_SHARDS",
        ] {
            let explain = format!("EXPLAIN QUERY PLAN {}", statement("sqlite", name));
            let plan: Vec<String> = sqlx::query_as::<_, (i64, i64, i64, String)>(sqlx::AssertSqlSafe(explain))
                .fetch_all(&db.pool)
                .await
                .unwrap()
                .into_iter()
                .map(|(_, _, _, detail)| detail)
                .collect();
            let scans = plan.iter().filter(|detail| detail.starts_with("SCAN"));
            let scans: Vec<_> =
                scans.filter(|detail| !detail.contains("step") && !detail.contains("(subquery")).collect();
            assert!(scans.iter().all(|detail| detail.contains("CONSTANT ROW")), "{name}: {plan:#?}");
            assert!(
                plan.iter().any(|detail| detail.starts_with("SEARCH") && detail.contains("PRIMARY KEY (shard")),
                "{name}: {plan:#?}"
            );
        }
        db.remove().await;
    }
}
