//! The plans of the statements on timers: timers that are not due cost nothing, however many there are.

use crate::support::TestDb;
use crate::support::source::statement;

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;

    /// Creates a database with 100,000 future timers in 16 shards, half of them of one recipient, and 300 due timers.
    async fn filled() -> TestDb<sqlx::Postgres> {
        let db = TestDb::empty("timing_plans").await;
        eventbox::migrate(&db.pool).await.unwrap();
        db.run(
            "INSERT INTO eventbox_timer
             SELECT n % 16, 4e15 + n, gen_random_uuid(),
                    CASE WHEN n % 2 = 0 THEN 'airport/EWR' ELSE 'aircraft/' || n END, NULL, NULL, ''
             FROM generate_series(1, 100000) n;
             INSERT INTO eventbox_timer
             SELECT 3, n, gen_random_uuid(), 'airport/EWR', NULL, NULL, '' FROM generate_series(1, 300) n;
             ANALYZE eventbox_timer",
        )
        .await;
        db
    }

    async fn plans(db: &TestDb<sqlx::Postgres>, name: &str, types: &str, arguments: &str) -> Vec<String> {
        let sql = statement("postgres", name);
        let mut plans = Vec::new();
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let pool = db.open(1);
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET plan_cache_mode = {mode}; PREPARE hot ({types}) AS {sql}")))
                .execute(&pool)
                .await
                .unwrap();
            let explain = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE hot ({arguments})");
            let lines: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&pool).await.unwrap();
            plans.push(lines.join("\n"));
            pool.close().await;
        }
        plans
    }

    #[tokio::test]
    async fn a_move_finds_due_timers_by_the_primary_key() {
        let db = filled().await;
        let shards: Vec<String> = (0..256).map(|shard| shard.to_string()).collect();
        for plan in
            plans(&db, "MOVE_TIMERS", "int2[], int8, int8", &format!("'{{{}}}', 100, NULL", shards.join(","))).await
        {
            assert!(plan.contains("eventbox_timer_pkey"), "{plan}");
            assert!(!plan.contains("Seq Scan on eventbox_timer"), "{plan}");
            // No node of the plan touches more rows than one for each shard, or the moved ones.
            let most = plan.split("rows=").filter_map(|text| text.split([' ', ')']).next()?.parse::<u64>().ok()).max();
            assert!(most.is_some_and(|most| most <= 256), "{plan}");
            assert!(plan.contains("Delete on eventbox_timer"), "{plan}");
        }
        // Both runs moved 100 timers.
        assert_eq!(db.count("eventbox_event").await, 200);
        db.remove().await;
    }

    #[tokio::test]
    async fn timers_are_cancelled_and_listed_by_their_keys() {
        let db = filled().await;
        for plan in plans(&db, "CANCEL_TIMER", "int2, text, text", "3, 'airport/EWR', 'n'").await {
            assert!(plan.contains("eventbox_timer_id") && plan.contains("eventbox_tombstone"), "{plan}");
            assert!(!plan.contains("Seq Scan on eventbox_timer"), "{plan}");
        }
        let arguments = format!("3, 'airport/EWR', '{}', 100, 1000", uuid::Uuid::nil());
        for plan in plans(&db, "LIST_TIMERS", "int2, text, uuid, int8, int8", &arguments).await {
            assert!(plan.contains("eventbox_timer_id") && !plan.contains("Sort"), "{plan}");
        }
        let arguments = format!("3, 'airport/EWR', '{}', NULL, 'airport'", uuid::Uuid::now_v7());
        for plan in plans(&db, "READ_STATUS", "int2, text, uuid, text, text", &arguments).await {
            assert!(plan.contains("eventbox_timer_id") && !plan.contains("Seq Scan on eventbox_timer"), "{plan}");
        }
        db.remove().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;

    #[tokio::test]
    async fn a_move_finds_due_timers_by_the_primary_key() {
        let db = TestDb::<sqlx::Sqlite>::empty("timing_plans").await;
        eventbox::migrate(&db.pool).await.unwrap();
        for name in ["FIRST_TIMERS", "DUE_TIMERS", "COPY_TIMERS", "DELETE_MOVED_TIMERS", "CANCEL_TIMER", "LIST_TIMERS"]
        {
            let explain = format!("EXPLAIN QUERY PLAN {}", statement("sqlite", name));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sqlx::AssertSqlSafe(explain)).fetch_all(&db.pool).await.unwrap();
            let plan: Vec<&str> = plan.iter().map(|line| line.3.as_str()).collect();
            assert!(plan.iter().any(|line| line.contains("SEARCH") && line.contains("(shard=?")), "{name}: {plan:#?}");
            assert!(
                !plan.iter().any(|line| line.starts_with("SCAN eventbox_timer") || *line == "SCAN t"),
                "{name}: {plan:#?}"
            );
        }
        db.remove().await;
    }
}
