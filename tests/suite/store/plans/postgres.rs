//! The plans of Postgres, for given arguments and generic.

use super::RECIPIENTS;
use crate::support::TestDb;
use crate::support::source::statement;

async fn filled() -> TestDb<sqlx::Postgres> {
    let db = TestDb::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let (values, nil) = ("gen_random_uuid(), NULL, NULL, '\\x00'", uuid::Uuid::nil());
    db.run(format!(
        "INSERT INTO eventbox_event SELECT s, 'aircraft/' || r, {values}
         FROM generate_series(0, 15) s, generate_series(1, {RECIPIENTS}) r, generate_series(1, 20);
         INSERT INTO eventbox_event SELECT 3, 'airport/EWR', {values} FROM generate_series(1, 20000);
         INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us)
         SELECT s, 'aircraft/' || r, 1, '{nil}', 0 FROM generate_series(0, 15) s, generate_series(1, 5000) r;
         ANALYZE eventbox_event, eventbox_state"
    ))
    .await;
    db
}

/// Returns the plan of a statement: for these arguments, or generic, by `mode`.
async fn plan(db: &TestDb<sqlx::Postgres>, name: &str, types: &str, arguments: &str, mode: &str) -> String {
    let sql = statement("postgres", name);
    // One connection, because settings and prepared statements belong to a connection.
    let pool = db.open(1);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET plan_cache_mode = {mode}; PREPARE hot ({types}) AS {sql}")))
        .execute(&pool)
        .await
        .unwrap();
    let lines: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN (COSTS OFF) EXECUTE hot ({arguments})")))
            .fetch_all(&pool)
            .await
            .unwrap();
    pool.close().await;
    lines.join("\n")
}

async fn uses_the_primary_key(db: &TestDb<sqlx::Postgres>, name: &str, types: &str, arguments: &[&str]) {
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for arguments in arguments {
            let plan = plan(db, name, types, arguments, mode).await;
            let arguments: String = arguments.chars().take(60).collect();
            assert!(plan.contains("eventbox_event_pkey"), "{name}, {mode}, {arguments}:\n{plan}");
            assert!(!plan.contains("Seq Scan on eventbox_event"), "{name}, {mode}, {arguments}:\n{plan}");
            // A sort of a box below the limit costs as much as a read in key order. A sort of a backlog costs more.
            let may_sort = arguments.contains("aircraft/");
            assert!(may_sort || !plan.contains("Sort"), "{name}, {mode}, {arguments}:\n{plan}");
        }
    }
}

#[tokio::test]
async fn a_count_of_kinds_uses_the_primary_key() {
    let db = filled().await;
    uses_the_primary_key(&db, "COUNT_BACKLOG", "text[], int8", &["ARRAY['aircraft', 'airport'], 1000"]).await;
    db.remove().await;
}

/// What an operator asks looks into each shard by a key, whatever the backlog.
#[tokio::test]
async fn views_of_an_operator_read_no_whole_table() {
    let db = filled().await;
    db.run(
        "INSERT INTO eventbox_timer (shard, recipient, id, value, due_at_us)
         SELECT shard, recipient, id, value, 1 FROM eventbox_event;
         INSERT INTO eventbox_dead_letter (shard, recipient, id, code, reason, attempts, dead_at_us, payload)
         SELECT shard, recipient, id, 'x', 'x', 0, 0, value FROM eventbox_event;
         ANALYZE eventbox_timer, eventbox_dead_letter",
    )
    .await;
    let boxes =
        ("int2, text, text, text, text, int8, int8", "3, 'aircraft/', 'aircraft/', 'aircraft0', E'\\x01', 50, 101");
    let kinds = ("int8", "201");
    for (name, (types, arguments), index) in [
        ("EVENT_KINDS", kinds, "eventbox_event_pkey"),
        ("TIMER_KINDS", kinds, "eventbox_timer_id"),
        ("QUARANTINE_KINDS", kinds, "eventbox_dead_letter_recipient"),
        ("COUNT_KIND", ("text, text, int8", "'aircraft/', 'aircraft0', 10001"), "eventbox_timer_id"),
        ("WAITING_BOXES", boxes, "eventbox_event_pkey"),
        ("KNOWN_BOXES", boxes, "eventbox_state_pkey"),
        ("QUARANTINED_BOXES", boxes, "eventbox_dead_letter_recipient"),
    ] {
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plan = plan(&db, name, types, arguments, mode).await;
            assert!(plan.contains(index), "{name}, {mode}:\n{plan}");
            for table in ["event", "timer", "dead_letter", "state"] {
                assert!(!plan.contains(&format!("Seq Scan on eventbox_{table}")), "{name}, {mode}:\n{plan}");
            }
        }
    }
    db.remove().await;
}

#[tokio::test]
async fn open_streams_are_found_by_the_primary_key() {
    let db = filled().await;
    db.run(
        "INSERT INTO eventbox_stream SELECT 'peer-' || p, 'stream-' || s, gen_random_uuid(), '{}', 0
         FROM generate_series(1, 50) p, generate_series(1, 500) s; ANALYZE eventbox_stream",
    )
    .await;
    for (name, types, arguments) in [
        ("LIST_STREAMS", "text, text, int8", "'peer-7', 'stream-7', 100"),
        ("NEXT_PEER", "text", "'peer-7'"),
        ("COUNT_STREAMS", "text, int8, int8", "'peer-7', 10001, 15000000"),
    ] {
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plan = plan(&db, name, types, arguments, mode).await;
            assert!(plan.contains("eventbox_stream_pkey"), "{name}, {mode}:\n{plan}");
            assert!(!plan.contains("Seq Scan on eventbox_stream"), "{name}, {mode}:\n{plan}");
        }
    }
    db.remove().await;
}

/// A measured emit reads the front of the box, however long the box is.
#[tokio::test]
async fn a_measured_emit_uses_the_primary_key() {
    let db = filled().await;
    let types = "int2, text, uuid, text, text, text, bytea, int8, int8, int8, int8, text";
    let id = uuid::Uuid::now_v7();
    let boxes = ["3, 'aircraft/7'", "3, 'airport/EWR'", "7, 'aircraft/none'"];
    let emits = boxes.map(|owner| format!("{owner}, '{id}', 'n', NULL, NULL, 'x', NULL, NULL, 1000, 1000, '20'"));
    let emits: Vec<&str> = emits.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "INSERT_MEASURED", types, &emits).await;
    db.remove().await;
}

#[tokio::test]
async fn a_listing_uses_the_primary_key() {
    let db = filled().await;
    let nil = uuid::Uuid::nil();
    let boxes =
        [("3, 'aircraft/7'", 101), ("3, 'airport/EWR'", 101), ("3, 'airport/EWR'", 1001), ("7, 'none/such'", 1)];
    let boxes = boxes.map(|(owner, limit)| format!("{owner}, '{nil}', {limit}"));
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    let lists: Vec<String> = boxes.iter().map(|of| format!("{of}, 1000")).collect();
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "LIST_EVENTS", "int2, text, uuid, int8, int8", &lists).await;
    let turns: Vec<String> = boxes.iter().map(|of| format!("{of}, 'airport', 1000")).collect();
    let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "OPEN_TURN", "int2, text, uuid, int8, text, int8", &turns).await;
    let id = uuid::Uuid::now_v7();
    let large = format!("3, 'aircraft/7', '{nil}', '{id}', 1000, 100");
    uses_the_primary_key(&db, "LARGE_EVENTS", "int2, text, uuid, uuid, int8, int8", &[&large]).await;
    db.remove().await;
}

/// Checks that a statement looks up the rows that it removes by their ids, whatever the statistics say.
/// Most boxes are short, so the planner would like to read a whole box.
async fn looks_up_ids(db: &TestDb<sqlx::Postgres>, name: &str, types: &str, arguments: &[&str]) {
    looks_up_ids_by(db, "eventbox_event_pkey", name, types, arguments).await;
}

/// Adds short boxes and timers.
async fn with_short_boxes() -> TestDb<sqlx::Postgres> {
    let db = filled().await;
    db.run(
        "INSERT INTO eventbox_event
         SELECT r % 256, 'crew/' || r, gen_random_uuid(), NULL, NULL, '\\x00' FROM generate_series(1, 20000) r;
         INSERT INTO eventbox_timer (shard, recipient, id, value, due_at_us)
         SELECT shard, recipient, id, value, 1 FROM eventbox_event;
         ANALYZE eventbox_event, eventbox_timer",
    )
    .await;
    db
}

async fn looks_up_ids_by(db: &TestDb<sqlx::Postgres>, index: &str, name: &str, types: &str, arguments: &[&str]) {
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for arguments in arguments {
            let plan = plan(db, name, types, arguments, mode).await;
            let lines: Vec<&str> = plan.lines().collect();
            let looks = || lines.windows(2).filter(|pair| pair[0].contains(index));
            assert!(looks().count() > 0, "{name}, {mode}:\n{plan}");
            assert!(looks().all(|pair| pair[1].contains("(id ")), "{name}, {mode}:\n{plan}");
        }
    }
}

/// A box is empty most of the time. A plan made then and kept must not read the whole table once the box is full.
#[tokio::test]
async fn plans_made_on_empty_tables_use_the_primary_keys() {
    let db = filled().await;
    db.run("DELETE FROM eventbox_event; DELETE FROM eventbox_state").await;
    let new = TestDb::empty("plans").await;
    eventbox::migrate(&new.pool).await.unwrap();
    for db in [&db, &new] {
        db.run("VACUUM (ANALYZE) eventbox_event").await;
        db.run("VACUUM (ANALYZE) eventbox_state").await;
        let uuid = uuid::Uuid::now_v7;
        let mut hot = vec![
            (
                "OPEN_TURN",
                "int2, text, uuid, int8, text, int8",
                format!("3, 'airport/EWR', '{}', 101, 'airport', 1000", uuid()),
            ),
            (
                "CLAIM_NEXT_TURN",
                "int2, text, int8, uuid, uuid[], uuid, uuid",
                format!("3, 'airport/EWR', 7, '{0}', '{{{0}}}', '{0}', '{0}'", uuid()),
            ),
        ];
        if cfg!(feature = "runtime") {
            hot.push((
                "LIST_ONE",
                "int2, text, uuid, int8, bool, int8, int8",
                format!("3, 'airport/EWR', '{}', 101, false, 1000, 1000000", uuid()),
            ));
            hot.push((
                "WRITE_NEXT_ONE",
                "int2, text, int8, uuid, uuid[], uuid, uuid, text, bytea, int8, bool, uuid",
                format!("3, 'airport/EWR', 7, '{0}', '{{{0}}}', '{0}', '{0}', '200', '1', 1, false, NULL", uuid()),
            ));
        }
        for (name, types, arguments) in hot {
            for mode in ["force_custom_plan", "force_generic_plan"] {
                let plan = plan(db, name, types, &arguments, mode).await;
                for table in ["eventbox_event", "eventbox_state"] {
                    assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name}, {mode}:\n{plan}");
                }
            }
        }
    }
    db.remove().await;
    new.remove().await;
}

#[cfg(feature = "runtime")]
#[tokio::test]
async fn a_round_of_one_finds_its_rows_by_the_primary_keys() {
    let (db, short) = (filled().await, with_short_boxes().await);
    let uuid = || uuid::Uuid::now_v7().to_string();
    let lists = [true, false].map(|known| format!("3, 'airport/EWR', '{}', 101, {known}, 1000, 1000000", uuid()));
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "LIST_ONE", "int2, text, uuid, int8, bool, int8, int8", &lists).await;
    let ids = |count| (0..count).map(|_| uuid()).collect::<Vec<_>>().join(",");
    let bounds = format!("'{}', '{}'", uuid(), uuid());
    let by_id = [1, 100].map(|count| format!("'{{{}}}', {bounds}, '200', '1', {count}", ids(count)));
    let by_range = format!("NULL, {bounds}, '200', '1', 100");
    let writes: Vec<String> = by_id
        .iter()
        .chain([&by_range])
        .map(|removed| format!("3, 'airport/EWR', 7, '{}', {removed}", uuid()))
        .collect();
    let first: Vec<&str> = writes.iter().map(String::as_str).collect();
    let types = "int2, text, int8, uuid, uuid[], uuid, uuid, text, bytea, int8";
    uses_the_primary_key(&db, "WRITE_FIRST_ONE", types, &first).await;
    looks_up_ids(&short, "WRITE_FIRST_ONE", types, &first).await;
    let next: Vec<String> = writes.iter().map(|write| format!("{write}, false, '{}'", uuid())).collect();
    let next: Vec<&str> = next.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "WRITE_NEXT_ONE", &format!("{types}, bool, uuid"), &next).await;
    looks_up_ids(&short, "WRITE_NEXT_ONE", &format!("{types}, bool, uuid"), &next).await;
    // The same with an event that the turn emits.
    let (row_types, row) = ("int2[], text[], uuid[], text[], text[], bytea[]", "'{4}', '{cell/1}'");
    let row = format!("{row}, '{{{}}}', '{{NULL}}', '{{NULL}}', '{{x}}'", uuid());
    for (name, types, writes) in [
        ("WRITE_AND_EMIT_FIRST_ONE", types.to_owned(), &first),
        ("WRITE_AND_EMIT_NEXT_ONE", format!("{types}, bool, uuid"), &next),
    ] {
        let writes: Vec<String> = writes.iter().map(|write| format!("{write}, {row}")).collect();
        let writes: Vec<&str> = writes.iter().map(String::as_str).collect();
        uses_the_primary_key(&db, name, &format!("{types}, {row_types}"), &writes).await;
        looks_up_ids(&short, name, &format!("{types}, {row_types}"), &writes).await;
    }
    db.remove().await;
    short.remove().await;
}

#[tokio::test]
async fn a_turn_finds_the_events_it_removes_by_the_primary_key() {
    let (db, short) = (filled().await, with_short_boxes().await);
    let uuid = uuid::Uuid::now_v7;
    let ids = |count| (0..count).map(|_| uuid().to_string()).collect::<Vec<_>>().join(",");
    let bounds = format!("'{}', '{}'", uuid(), uuid());
    let claim = format!("3, 'airport/EWR', 7, '{}'", uuid());
    let by_id = [1, 100, 1000].map(|count| format!("{claim}, '{{{}}}', {bounds}", ids(count)));
    let by_range = format!("{claim}, NULL, {bounds}");
    let claims: Vec<&str> = by_id.iter().chain([&by_range]).map(String::as_str).collect();
    for name in ["CLAIM_FIRST_TURN", "CLAIM_NEXT_TURN"] {
        uses_the_primary_key(&db, name, "int2, text, int8, uuid, uuid[], uuid, uuid", &claims).await;
        looks_up_ids(&short, name, "int2, text, int8, uuid, uuid[], uuid, uuid", &claims).await;
    }
    db.remove().await;
    short.remove().await;
}

#[tokio::test]
async fn finding_recipients_uses_the_primary_key() {
    let db = filled().await;
    uses_the_primary_key(&db, "LIST_RECIPIENTS", "int2, text, int8", &["3, '', 100", "3, 'airport/A', 1"]).await;
    db.remove().await;
}

/// The statements of rounds read no whole table, for one recipient and for hundreds,
/// whatever sizes of arrays the planner assumes.
#[cfg(feature = "runtime")]
#[tokio::test]
async fn rounds_find_their_rows_by_the_primary_keys() {
    let array = |count: usize, of: &dyn Fn(usize) -> String| {
        format!("'{{{}}}'", (0..count).map(of).collect::<Vec<_>>().join(","))
    };
    let db = filled().await;
    let uuid = |_| uuid::Uuid::now_v7().to_string();
    for (recipients, events) in [(1, 1), (1, 100), (500, 1), (500, 50)] {
        let shards = array(recipients, &|n| (n % 16).to_string());
        let names = array(recipients, &|n| format!("aircraft/{}", n / 16 + 1));
        let ones = array(recipients, &|_| "1".to_owned());
        let keeps = array(recipients, &|_| "f".to_owned());
        let states = array(recipients, &|_| "NULL".to_owned());
        let starts = array(recipients, &|n| (n * events + 1).to_string());
        let (ids, token) = (array(recipients * events, &uuid), uuid(0));
        let all = array(256, &|n| n.to_string());
        let (nothing, afters) = (array(256, &|_| "\"\"".to_owned()), array(recipients, &uuid));
        let nulls = array(256, &|_| "NULL".to_owned());
        let known = array(recipients, &|n| if n % 2 == 0 { "f" } else { "t" }.to_owned());
        for (name, types, arguments) in [
            (
                "WALK_RECIPIENTS",
                "int2[], text[], text[], int8, text[]",
                format!("{all}, {nothing}, {nulls}, 20, '{{aircraft}}'"),
            ),
            (
                "LIST_ROUND",
                "int2[], text[], uuid[], int8, bool[], int8, int8, int8",
                format!("{shards}, {names}, {afters}, 101, {known}, 1000, 1000000, 1000000"),
            ),
            (
                "LARGE_OF_ROUND",
                "int2[], text[], uuid[], uuid[], int8[], int8",
                format!("{shards}, {names}, {afters}, {afters}, {ones}, 1000"),
            ),
            (
                "WRITE_ROUND",
                "int2[], text[], int8[], bool[], bytea[], uuid[], uuid[], int4[], int4[], uuid[], uuid, text, \
                 uuid[]",
                format!(
                    "{shards}, {names}, {ones}, {keeps}, {states}, {afters}, {afters}, {ones}, {starts}, {ids}, \
                     '{token}', '200', {afters}"
                ),
            ),
        ] {
            for mode in ["force_custom_plan", "force_generic_plan"] {
                let plan = plan(&db, name, types, &arguments, mode).await;
                for table in ["eventbox_event", "eventbox_state"] {
                    assert!(
                        !plan.contains(&format!("Seq Scan on {table}")),
                        "{name}, {mode}, {recipients} × {events}:\n{plan}"
                    );
                }
                assert!(plan.contains("eventbox_event_pkey"), "{name}, {mode}, {recipients} × {events}:\n{plan}");
            }
        }
    }
    db.remove().await;
}

#[tokio::test]
async fn a_pop_finds_its_events_by_the_primary_key() {
    let (db, short) = (filled().await, with_short_boxes().await);
    let boxes = [1, 100, 1000].map(|count| {
        let ids: Vec<String> = (0..count).map(|_| uuid::Uuid::now_v7().to_string()).collect();
        format!("3, 'airport/EWR', '{{{}}}'", ids.join(","))
    });
    let events: Vec<&str> = boxes.iter().map(String::as_str).collect();
    uses_the_primary_key(&db, "DELETE_EVENTS", "int2, text, uuid[]", &events).await;
    for name in ["DELETE_EVENTS", "LIVING_EVENTS"] {
        looks_up_ids(&short, name, "int2, text, uuid[]", &events).await;
    }
    let boxes = boxes.clone().map(|of| format!("{of}, 'code', 'reason', 1"));
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    looks_up_ids_by(&short, "eventbox_timer_id", "DELETE_TIMERS", "int2, text, uuid[]", &events).await;
    looks_up_ids(&short, "DELETE_NAMED_EVENTS", "int2, text, text[]", &events).await;
    looks_up_ids(&short, "QUARANTINE_EVENTS", "int2, text, uuid[], text, text, int4", &boxes).await;
    db.remove().await;
    short.remove().await;
}

/// Old rows of a kind are found by their index, between the rows of other kinds. An audit looks up each event by its
/// key.
#[tokio::test]
async fn the_journal_is_read_by_its_keys() {
    let db = filled().await;
    db.run(
        "INSERT INTO eventbox_journal
         SELECT s, 'aircraft/' || r, gen_random_uuid(), NULL, 1, 1, r FROM generate_series(0, 15) s,
             generate_series(1, 2000) r;
         INSERT INTO eventbox_journal SELECT 3, 'airport/EWR', gen_random_uuid(), NULL, 1, 1, r
         FROM generate_series(1, 500) r;
         ANALYZE eventbox_journal",
    )
    .await;
    let ids: Vec<String> = (0..100).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let (shards, names) = (["3"; 100].join(","), ["airport/EWR"; 100].join(","));
    let keys = format!("'{{{shards}}}', '{{{names}}}', '{{{}}}'", ids.join(","));
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let pruning = plan(&db, "PRUNE_JOURNAL", "text, int8", "'airport', 1000", mode).await;
        assert!(pruning.contains("eventbox_journal_at"), "{mode}:\n{pruning}");
        assert!(!pruning.contains("Seq Scan on eventbox_journal j"), "{mode}:\n{pruning}");
        let located = plan(&db, "LOCATE_EVENTS", "int2[], text[], uuid[]", &keys, mode).await;
        for table in ["eventbox_event", "eventbox_journal"] {
            assert!(located.contains(&format!("{table}_pkey")), "{mode}:\n{located}");
            assert!(!located.contains(&format!("Seq Scan on {table}")), "{mode}:\n{located}");
        }
    }
    db.remove().await;
}

/// In a long outbox with few due rows, a claim uses the index of due rows.
#[cfg(feature = "emitter")]
#[tokio::test]
async fn a_claim_finds_due_rows_by_the_index() {
    let db = TestDb::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    db.run(
        "INSERT INTO eventbox_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
         SELECT s, gen_random_uuid(), 'flights', 'flight.delayed', 1, CASE WHEN n = 1 THEN 1 ELSE 9e15 END, '\\x00'
         FROM generate_series(0, 255) s, generate_series(1, 200) n;
         ANALYZE eventbox_outbox",
    )
    .await;
    finds_due_rows(&db, "empty").await;
    // Many pauses, of which the planner knows.
    db.run(
        "INSERT INTO eventbox_paused_destination
         SELECT 'source ' || n, '', 1, 'ana', NULL FROM generate_series(1, 500) n;
         ANALYZE eventbox_paused_destination",
    )
    .await;
    finds_due_rows(&db, "full").await;
    db.remove().await;
}

/// Claims, and the statement that sets paused rows aside, read the due rows in the order of their index, and only as
/// many as they take: they neither join nor sort them with the paused destinations.
#[cfg(feature = "emitter")]
async fn finds_due_rows(db: &TestDb<sqlx::Postgres>, pauses: &str) {
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for (name, types, arguments) in [
            ("CLAIM_OUTBOX", "int4, int8, int8, int8, int8", "0, 10, 100, 10000000, 1000000"),
            ("SET_ASIDE_OUTBOX", "int8, int8, int8", "100, 200, 1000000"),
        ] {
            let plan = plan(db, name, types, arguments, mode).await;
            assert!(plan.contains("eventbox_outbox_due"), "{name}, {pauses}, {mode}:\n{plan}");
            for wrong in ["Seq Scan on eventbox_outbox", "Sort", "Hash", "Anti Join", "Semi Join"] {
                assert!(!plan.contains(wrong), "{name}, {pauses}, {mode}, {wrong}:\n{plan}");
            }
            assert!(plan.contains("eventbox_paused_destination"), "{name}:\n{plan}");
        }
    }
}

/// Otherwise the server would plan such a statement at each call, because a plan for one row is cheaper than one for
/// any number of rows.
#[tokio::test]
async fn statements_with_short_arrays_are_not_planned_at_each_call() {
    /// Calls for which Postgres makes a plan of their own.
    const PLANNED: i64 = 5;
    let db = TestDb::<sqlx::Postgres>::empty("plans").await;
    eventbox::migrate(&db.pool).await.unwrap();
    let (pool, to) = (db.open(1), eventbox::Recipient::new("aircraft", "N14228").unwrap());
    for number in 0..12 {
        let named = eventbox::Event::new("x").named(number.to_string());
        eventbox::emit(&pool, &to, named).await.unwrap();
    }
    let planned: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements
         WHERE statement LIKE '%INSERT INTO eventbox_tombstone%' AND statement NOT LIKE '%pg_prepared_statements%'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(matches!(planned[..], [(1.., PLANNED)]), "{planned:?}");
    pool.close().await;
    db.remove().await;
}
