//! The plans of SQLite, which has one plan for each statement.

use super::RECIPIENTS;
use crate::support::TestDb;
use crate::support::source::statement;

async fn filled() -> TestDb<sqlx::Sqlite> {
    let db = TestDb::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 31999)";
    db.run(format!(
        "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value) {numbers}
         SELECT i % 16, 'aircraft/' || (i / 16 % {RECIPIENTS}), randomblob(16), NULL, NULL, x'00' FROM n;
         INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value) {numbers}
         SELECT 3, 'airport/EWR', randomblob(16), NULL, NULL, x'00' FROM n LIMIT 20000;
         ANALYZE"
    ))
    .await;
    db
}

/// Returns the plan of each statement of a text.
async fn plans(db: &TestDb<sqlx::Sqlite>, name: &str) -> Vec<Vec<String>> {
    plans_of(db, &statement("sqlite", name)).await
}

async fn plans_of(db: &TestDb<sqlx::Sqlite>, sql: &str) -> Vec<Vec<String>> {
    let mut plans = Vec::new();
    for sql in sql.split(';') {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&db.pool).await.unwrap();
        plans.push(plan.into_iter().map(|(_, _, _, detail)| detail).collect());
    }
    plans
}

/// Returns the writes of a trigger, with parameters in place of the columns of the row.
async fn writes_of_trigger(db: &TestDb<sqlx::Sqlite>, name: &str) -> String {
    let text = db.texts(&format!("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = '{name}'")).await;
    let text = text.concat();
    let mut parts = text.split_once("BEGIN").unwrap().1.split("new.");
    let of_table = parts.next().unwrap().to_owned();
    let behind_name =
        |part: &str| part.trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_').to_owned();
    let body = parts.fold(of_table, |body, part| body + "?" + &behind_name(part));
    let writes = body.split(';').map(str::trim).filter(|sql| sql.starts_with("UPDATE") || sql.starts_with("DELETE"));
    writes.collect::<Vec<_>>().join(";")
}

/// What an operator asks looks into each shard by a key, whatever the backlog.
#[tokio::test]
async fn views_of_an_operator_read_no_whole_table() {
    let db = filled().await;
    for name in ["EVENT_KINDS", "TIMER_KINDS", "QUARANTINE_KINDS", "COUNT_KIND", "WAITING_BOXES", "QUARANTINED_BOXES"] {
        let plan = plans(&db, name).await.concat();
        let reads = |table: &str| plan.iter().any(|detail| format!("{detail} ").starts_with(&format!("SCAN {table} ")));
        assert!(plan.iter().any(|detail| detail.starts_with("SEARCH")), "{name}: {plan:#?}");
        for table in ["e", "f", "d", "eventbox_event", "eventbox_timer", "eventbox_failure", "eventbox_dead_letter"] {
            assert!(!reads(table), "{name}: {plan:#?}");
        }
    }
    db.remove().await;
}

#[tokio::test]
async fn open_streams_are_found_by_the_primary_key() {
    let db = filled().await;
    for name in ["LIST_STREAMS", "NEXT_PEER", "COUNT_STREAMS"] {
        let plan = plans(&db, name).await.concat();
        let is_search = |detail: &String| {
            let of_table = detail.starts_with("SEARCH s ") || detail.starts_with("SEARCH eventbox_stream ");
            of_table && detail.contains("PRIMARY KEY (peer")
        };
        assert!(plan.iter().any(is_search), "{name}: {plan:#?}");
        let is_scan = |detail: &String| detail.starts_with("SCAN s ") || detail.starts_with("SCAN eventbox_stream");
        assert!(!plan.iter().any(|detail| is_scan(detail) || detail.contains("TEMP B-TREE")), "{name}: {plan:#?}");
    }
    db.remove().await;
}

async fn uses_the_primary_key(name: &str) {
    let db = filled().await;
    let plan = plans(&db, name).await.concat();
    let of_table = |detail: &&String| detail.contains("eventbox_event") || detail.starts_with("SEARCH e ");
    let of_table: Vec<_> = plan.iter().filter(of_table).collect();
    assert!(!of_table.is_empty(), "{plan:#?}");
    for detail in &of_table {
        assert!(detail.starts_with("SEARCH") && detail.contains("PRIMARY KEY (shard=?"), "{plan:#?}");
    }
    assert!(!plan.iter().any(|detail| detail.contains("TEMP B-TREE")), "{plan:#?}");
    db.remove().await;
}

#[tokio::test]
async fn a_measured_emit_uses_the_primary_key() {
    uses_the_primary_key("INSERT_MEASURED").await;
}

#[tokio::test]
async fn a_listing_uses_the_primary_key() {
    uses_the_primary_key("LIST_EVENTS").await;
    uses_the_primary_key("LARGE_EVENTS").await;
    uses_the_primary_key("OPEN_TURN").await;
    uses_the_primary_key("LIST_ONE").await;
}

/// The statements of rounds read no whole table.
#[cfg(feature = "runtime")]
#[tokio::test]
async fn rounds_find_their_rows_by_the_primary_keys() {
    let db = filled().await;
    for name in [
        "OCCUPIED_SHARDS",
        "WALK_RECIPIENTS",
        "LIST_ROUND",
        "FIRST_TURNS",
        "NEXT_TURNS",
        "REMOVE_EVENTS",
        "REMOVE_RANGES",
    ] {
        let plan = plans(&db, name).await.concat();
        let scans = |line: &&String| {
            ["SCAN e", "SCAN s", "SCAN eventbox_"].iter().any(|scan| {
                line.strip_prefix(scan)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' ') || scan.ends_with('_'))
            })
        };
        assert!(!plan.iter().any(|line| scans(&line)), "{name}: {plan:#?}");
    }
    db.remove().await;
}

#[tokio::test]
async fn finding_recipients_uses_the_primary_key() {
    uses_the_primary_key("LIST_RECIPIENTS").await;
}

/// Checks that a statement looks up the events that it removes by their ids.
async fn looks_up_ids(name: &str) {
    let db = filled().await;
    let plan = plans(&db, name).await.concat();
    let looks = || plan.iter().filter(|line| line.contains("PRIMARY KEY"));
    assert!(looks().count() > 0, "{name}: {plan:#?}");
    assert!(looks().all(|line| line.contains("(shard=? AND recipient=? AND id")), "{name}: {plan:#?}");
    db.remove().await;
}

#[tokio::test]
async fn a_pop_finds_its_events_by_the_primary_key() {
    uses_the_primary_key("DELETE_EVENTS").await;
    looks_up_ids("DELETE_EVENTS").await;
}

/// One call moves the turn and removes the events, both by the primary keys.
#[tokio::test]
async fn a_turn_finds_the_events_it_removes_by_the_primary_key() {
    let db = filled().await;
    let mut texts = vec![statement("sqlite", "CLAIM_FIRST_TURN"), statement("sqlite", "CLAIM_NEXT_TURN")];
    texts.push(writes_of_trigger(&db, "eventbox_round_of_one_insert").await);
    for text in texts {
        let plans = plans_of(&db, &text).await;
        assert_eq!(plans.len(), 2, "{text}");
        let moved = plans[0].iter().all(|line| line.starts_with("SEARCH eventbox_state USING PRIMARY KEY"));
        assert!(moved, "{text}: {:#?}", plans[0]);
        let removal: Vec<_> = plans[1].iter().filter(|line| !line.contains("json_each")).collect();
        let by_key = |wanted: &str| removal.iter().any(|line| line.starts_with("SEARCH") && line.ends_with(wanted));
        assert!(by_key("(shard=? AND recipient=? AND id>? AND id<?)"), "{text}: {removal:#?}");
        assert!(
            !removal.iter().any(|line| line.starts_with("SCAN eventbox") || *line == "SCAN s"),
            "{text}: {removal:#?}"
        );
    }
    db.remove().await;
}

#[cfg(feature = "runtime")]
#[tokio::test]
async fn rounds_look_up_the_events_they_remove() {
    looks_up_ids("REMOVE_EVENTS").await;
    looks_up_ids("REMOVE_RANGES").await;
}

/// The statements of the journal read no whole table, and old rows of a kind are found by their index.
#[tokio::test]
async fn the_journal_is_read_by_its_keys() {
    let db = filled().await;
    for name in ["PRUNE_JOURNAL", "READ_FATE", "LOCATE_EVENTS", "AUDITED", "AUDITED_SHARDS"] {
        let plan = plans(&db, name).await.concat();
        let scans = ["SCAN eventbox_", "SCAN e", "SCAN m", "SCAN d", "SCAN j", "SCAN x", "SCAN b", "SCAN c", "SCAN y"];
        let is_scan =
            |line: &String| scans.iter().any(|scan| line == scan || (scan.ends_with('_') && line.starts_with(scan)));
        assert!(!plan.iter().any(is_scan), "{name}: {plan:#?}");
        assert!(plan.iter().any(|line| line.starts_with("SEARCH")), "{name}: {plan:#?}");
    }
    let plan = plans(&db, "PRUNE_JOURNAL").await.concat();
    assert!(plan.iter().any(|line| line.contains("eventbox_journal_at (<expr>=? AND at_us<?)")), "{plan:#?}");
    db.remove().await;
}

#[cfg(feature = "emitter")]
#[tokio::test]
async fn a_claim_finds_due_rows_by_the_index() {
    let db = filled().await;
    for name in ["CLAIM_OUTBOX", "SET_ASIDE_OUTBOX"] {
        let plan = plans(&db, name).await.concat();
        let of_table: Vec<_> = plan.iter().filter(|line| line.contains("eventbox_outbox")).collect();
        assert!(
            of_table.iter().any(|line| line.contains("eventbox_outbox_due (shard=? AND next_attempt_at_us<?)")),
            "{name}: {of_table:#?}"
        );
        assert!(of_table.iter().all(|line| line.starts_with("SEARCH")), "{name}: {of_table:#?}");
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{name}: {plan:#?}");
    }
    db.remove().await;
}
