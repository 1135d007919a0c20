//! What Citus accepts of the statements, and how its layouts are met. The rules are those that Citus 13.2 showed.

use std::collections::BTreeSet;

use eventbox::{Emitted, Error, Event, Layout, Recipient};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

use crate::support::source::{Statement, root, statements};
use crate::support::{TestDb, layout, with_database};

/// The statements of one server that tables cut by `shard` refuse, or answer on many nodes, with the reasons. Where the
/// reason is more than several shards of a read, `by_shard` has other statements instead.
const BY_SHARD: &str = "tests/suite/store/citus_by_shard.txt";

/// Tables that are cut by `shard`. The others are local or reference tables.
const CUT: [&str; 8] = [
    "eventbox_event",
    "eventbox_tombstone",
    "eventbox_state",
    "eventbox_outbox",
    "eventbox_dead_letter",
    "eventbox_failure",
    "eventbox_timer",
    "eventbox_journal ",
];

/// Returns the text in one line.
fn flat(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

fn writes(sql: &str) -> bool {
    has_any(sql, &["INSERT INTO eventbox_", "UPDATE eventbox_", "DELETE FROM eventbox_"])
}

/// Removes `clock AS MATERIALIZED (SELECT …)`, in which any clock may be read.
fn without_clock(sql: &str) -> String {
    const CLOCK: &str = "clock AS MATERIALIZED (";
    let Some(from) = sql.find(CLOCK) else { return sql.to_owned() };
    let (mut depth, mut until) = (0, sql.len());
    for (at, letter) in sql[from..].char_indices() {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if letter == ')' && depth == 0 {
            until = from + at;
            break;
        }
    }
    format!("{}{}", &sql[..from], &sql[until..])
}

/// Returns the parts from each `begin` to the next `end`, or to the end of the text.
fn inside<'a>(sql: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    for (from, _) in sql.match_indices(begin) {
        let rest = &sql[from + begin.len()..];
        parts.push(&rest[..rest.find(end).unwrap_or(rest.len())]);
    }
    parts
}

/// Returns why Citus refuses a statement on the tables of a distributed schema.
fn refused_in_a_schema(sql: &str) -> Vec<&'static str> {
    let sql = without_clock(&flat(sql));
    if !writes(&sql) {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if has_any(&sql, &["clock_timestamp()", "random()"]) {
        reasons.push("a volatile function");
    }
    let updates = inside(&sql, "DO UPDATE", " INSERT INTO ");
    if updates.into_iter().any(|part| part.contains("_timestamp()")) {
        reasons.push("a clock behind DO UPDATE");
    }
    let cases = inside(&sql, "CASE ", " END").into_iter().chain(inside(&sql, "coalesce(", ")"));
    if cases.into_iter().any(|part| part.contains("_timestamp()")) {
        reasons.push("a clock in CASE or coalesce");
    }
    if sql.starts_with("INSERT") && sql.split_once("VALUES (").is_some_and(|(_, behind)| behind.contains("SELECT")) {
        reasons.push("a subquery in an INSERT with values");
    }
    if sql.starts_with("INSERT") && !sql.contains("VALUES (") && sql.contains(" FROM eventbox_") {
        reasons.push("an INSERT of rows of a table");
    }
    if sql.contains("(SELECT (extract(epoch FROM statement_timestamp()") {
        reasons.push("a clock in a subquery");
    }
    reasons
}

/// Returns why a statement is not one command on one shard when the tables are cut by `shard`.
fn refused_by_shard(sql: &str) -> Vec<&'static str> {
    let sql = flat(sql);
    let touches =
        |table: &str| ["FROM", "JOIN", "INTO", "UPDATE"].iter().any(|verb| sql.contains(&format!("{verb} {table}")));
    if !CUT.into_iter().any(touches) {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if writes(&sql) && has_any(&sql, &["clock_timestamp()", "gen_random_uuid()", "set_config(", "emit_message("]) {
        reasons.push("volatile function");
    }
    if sql.contains("ctid") {
        reasons.push("ctid");
    }
    if has_any(&sql, &["AS (INSERT", "AS ( INSERT"]) {
        reasons.push("INSERT in a CTE");
    }
    let is_one = has_any(&sql, &["shard = $1"]) || (sql.starts_with("INSERT") && sql.contains("VALUES ($"));
    let spans = [
        "$1::int2[]",
        "generate_series(",
        "shard IN (",
        "step.shard",
        "FROM shards",
        "shard > ",
        ".shard = s.shard",
        "= w.shard",
    ];
    if !is_one || has_any(&sql, &spans) {
        reasons.push("several shards");
    }
    reasons
}

/// Returns whether a statement is one of those for tables that are cut by `shard`.
fn is_by_shard(statement: &Statement) -> bool {
    let is_of_nodes = statement.name.as_ref().is_some_and(|name| name.ends_with("_OF_NODES"));
    is_of_nodes || statement.place.contains("/by_shard/") || statement.place.contains("/one_shard.rs")
}

/// Returns the name of a statement, for a list that does not change with the lines of the source.
fn name_of(statement: &Statement) -> String {
    let file = statement.place.rsplit_once(':').map_or("", |(file, _)| file);
    let file = file.trim_start_matches("src/store/").trim_end_matches(".rs");
    match &statement.name {
        Some(name) => format!("{file} {name}"),
        None => format!("{file} `{}`", flat(&statement.sql).chars().take(64).collect::<String>().trim_end()),
    }
}

#[test]
fn citus_accepts_every_statement_in_a_distributed_schema() {
    let statements = statements("postgres");
    let refused = statements.iter().filter(|statement| !is_by_shard(statement)).filter_map(|statement| {
        let reasons = refused_in_a_schema(&statement.sql);
        (!reasons.is_empty()).then(|| format!("{}: {}", statement.place, reasons.join(", ")))
    });
    let refused: Vec<_> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(statements.len() > 100, "only {} statements were found", statements.len());
}

#[test]
fn a_statement_that_citus_refuses_is_noticed() {
    for (sql, reason) in [
        ("UPDATE eventbox_lease SET expires_at_us = clock_timestamp()", "a volatile function"),
        (
            "INSERT INTO eventbox_failure (shard) VALUES ($1)
             ON CONFLICT (shard) DO UPDATE SET next_attempt_at_us = statement_timestamp()",
            "a clock behind DO UPDATE",
        ),
        (
            "UPDATE eventbox_lease SET expires_at_us = CASE WHEN $1 THEN statement_timestamp() END",
            "a clock in CASE or coalesce",
        ),
        (
            "INSERT INTO eventbox_stream (peer) VALUES ($1) ON CONFLICT (peer) DO UPDATE SET peer = 'x'
             WHERE EXISTS (SELECT 1 FROM eventbox_member)",
            "a subquery in an INSERT with values",
        ),
        (
            "INSERT INTO eventbox_dead_letter (id, code) SELECT id, $2 FROM eventbox_outbox WHERE id = $1",
            "an INSERT of rows of a table",
        ),
        (
            "DELETE FROM eventbox_journal WHERE at_us < (SELECT (extract(epoch FROM statement_timestamp())))",
            "a clock in a subquery",
        ),
    ] {
        assert_eq!(refused_in_a_schema(sql), [reason], "{sql}");
    }
    for accepted in [
        "SELECT coalesce(clock_timestamp(), $1) FROM eventbox_event",
        "WITH clock AS MATERIALIZED (SELECT coalesce($1, (clock_timestamp())) AS us) DELETE FROM eventbox_event",
        "UPDATE eventbox_lease SET expires_at_us = statement_timestamp() * CASE WHEN $2 THEN 0 ELSE 1 END",
    ] {
        assert!(refused_in_a_schema(accepted).is_empty(), "{accepted}");
    }
    assert_eq!(refused_by_shard("SELECT ctid FROM eventbox_event WHERE id = $1"), ["ctid", "several shards"]);
    assert!(refused_by_shard("SELECT id FROM eventbox_event WHERE shard = $1 AND id = $2").is_empty());
}

/// Each statement for tables that are cut by `shard` is one command on one shard. Only reads that begin with the anchors
/// ask all nodes.
#[test]
fn statements_by_shard_touch_one_shard() {
    let statements: Vec<_> = statements("postgres").into_iter().filter(is_by_shard).collect();
    let refused = statements.iter().filter_map(|statement| {
        let mut reasons = refused_by_shard(&statement.sql);
        let sql = flat(&statement.sql);
        let is_lone_count = sql.starts_with("SELECT count(*) FROM (SELECT 1 FROM ");
        if sql.starts_with("SELECT ") && (sql.contains(" FROM eventbox_anchor ") || is_lone_count) {
            reasons.retain(|reason| *reason != "several shards");
        }
        (!reasons.is_empty()).then(|| format!("{}: {}", statement.place, reasons.join(", ")))
    });
    let refused: Vec<_> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(statements.len() > 60, "only {} statements were found", statements.len());
}

/// The list of the statements that tables cut by `shard` refuse does not grow by accident. `EVENTBOX_BLESS=1` writes it.
#[test]
fn what_tables_cut_by_shard_would_refuse_is_listed() {
    let list: BTreeSet<String> = statements("postgres")
        .iter()
        .filter(|statement| !is_by_shard(statement))
        .filter_map(|statement| {
            let reasons = refused_by_shard(&statement.sql);
            (!reasons.is_empty()).then(|| format!("{}: {}", name_of(statement), reasons.join(", ")))
        })
        .collect();
    let list = list.into_iter().collect::<Vec<_>>().join("\n") + "\n";
    let path = root().join(BY_SHARD);
    if std::env::var_os("EVENTBOX_BLESS").is_some() {
        std::fs::write(&path, &list).unwrap();
    }
    let listed = std::fs::read_to_string(path).unwrap();
    assert!(list == listed, "{BY_SHARD} differs from the store. It may become shorter. Now it would be:\n{list}");
}

/// Returns an argument of a type, as text.
fn argument_of(sort: &str) -> Option<&'static str> {
    Some(match sort.trim_end_matches("[]") {
        "smallint" | "integer" | "bigint" | "double precision" => "1",
        "text" => "1",
        "uuid" => "00000000-0000-0000-0000-000000000001",
        "boolean" => "true",
        "bytea" => "x",
        _ => return None,
    })
}

/// The check of a round of its own result, which arguments without events do not pass.
const DIVISION_BY_ZERO: &str = "22012";

/// Runs every statement on the tables of its layout, without an effect. `EXPLAIN` is not enough: it accepts
/// statements of which Citus makes no valid SQL. From the sixth time on, the server may prefer a generic plan.
#[tokio::test]
async fn citus_runs_every_statement_of_its_layout() {
    if !layout::is_citus() {
        return;
    }
    let is_of_layout = |statement: &&Statement| layout::is_citus_schema() != is_by_shard(statement);
    with_database("citus_runs_every_statement", async |db: &TestDb<Postgres>| {
        let mut conn = db.connect().await;
        let mut faults = Vec::new();
        let statements = statements("postgres");
        let statements = statements.iter().filter(|statement| statement.sql.contains("eventbox_"));
        for statement in statements.filter(is_of_layout) {
            if let Err(error) = run_prepared(&mut conn, &statement.sql).await {
                let code = error.as_database_error().and_then(|error| error.code());
                if code.is_none_or(|code| code != DIVISION_BY_ZERO) {
                    faults.push(format!("{}: {error}", statement.place));
                }
            }
            sqlx::raw_sql("ROLLBACK; DEALLOCATE ALL").execute(&mut conn).await.unwrap();
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    })
    .await;
}

async fn run_prepared(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("PREPARE tried AS {sql}"))).execute(&mut *conn).await?;
    let sorts = "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = 'tried'";
    let rows = sqlx::raw_sql(sorts).fetch_all(&mut *conn).await?;
    let arguments = rows.iter().map(|row| {
        let sort: String = row.get(0);
        let value = argument_of(&sort).unwrap_or_else(|| panic!("no argument of type {sort} is known"));
        if sort.ends_with("[]") { format!("'{{{value}}}'") } else { format!("'{value}'") }
    });
    let arguments = arguments.collect::<Vec<_>>().join(", ");
    let arguments = if arguments.is_empty() { arguments } else { format!("({arguments})") };
    for _ in 0..7 {
        let execute = format!("BEGIN; EXECUTE tried{arguments}; ROLLBACK");
        sqlx::raw_sql(AssertSqlSafe(execute)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Returns why the tables are refused.
async fn refusal(db: &TestDb<Postgres>) -> String {
    match eventbox::check(&db.pool).await {
        Err(error @ Error::Setup { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// `check` refuses tables that Citus has cut into shards, or put on different nodes. Here a table stands for the
/// catalog of Citus: `check` looks for the name along the search path, where the catalog of the system comes first.
#[tokio::test]
async fn tables_that_lie_apart_are_refused() {
    if layout::is_citus() || layout::is_by_shard() {
        return;
    }
    with_database("tables_that_lie_apart", async |db: &TestDb<Postgres>| {
        db.run(
            "CREATE TABLE pg_dist_partition
                 (logicalrelid regclass, partmethod \"char\", colocationid int, repmodel \"char\", partkey text)",
        )
        .await;
        eventbox::check(&db.pool).await.unwrap();
        db.run("INSERT INTO pg_dist_partition SELECT oid, 'n', 7, 's' FROM pg_class WHERE relname LIKE 'eventbox\\_%'")
            .await;
        assert_eq!(eventbox::layout(&db.pool).await.unwrap(), Layout::BySchema);
        eventbox::check(&db.pool).await.unwrap();
        db.run("DELETE FROM pg_dist_partition WHERE logicalrelid = 'eventbox_timer'::regclass").await;
        let told = refusal(db).await;
        assert!(told.contains("keep eventbox_anchor and eventbox_timer on different nodes"), "{told}");
        db.run("INSERT INTO pg_dist_partition VALUES ('eventbox_event', 'h', 7, 'c', '{VAR :varattno 1 :x}')").await;
        db.run("DELETE FROM pg_dist_partition WHERE logicalrelid = 'eventbox_event'::regclass AND partmethod = 'n'")
            .await;
        let told = refusal(db).await;
        assert!(told.contains("cut the rows of eventbox_event") && told.contains("not eventbox_anchor"), "{told}");
        assert!(told.contains("migrate up --citus`") && told.contains("docs/scaling.md"), "{told}");
        assert!(matches!(eventbox::migrate(&db.pool).await, Err(Error::Setup { .. })));
    })
    .await;
}

/// On a cluster, `check` refuses tables of which only some are cut by `shard`, and `migrate_citus_by_shard` cuts the
/// others. Their rows stay, and a second call changes nothing.
#[tokio::test]
async fn tables_are_cut_by_shard_with_their_rows() {
    if !layout::is_citus_by_shard() {
        return;
    }
    let db = TestDb::<Postgres>::empty("tables_are_cut_by_shard").await;
    let pool = &db.pool;
    eventbox::migrate(pool).await.unwrap();
    assert_eq!(eventbox::layout(pool).await.unwrap(), Layout::OneNode);
    let to = |n: i32| Recipient::new("cell", n.to_string()).unwrap();
    let named = |n: i32| Event::new("x").named(format!("n{n}"));
    for n in 0..20 {
        eventbox::emit(pool, &to(n), named(n)).await.unwrap();
        eventbox::emit(pool, &to(n), Event::new("late").due_in(std::time::Duration::from_secs(3_600))).await.unwrap();
    }
    db.run("SELECT create_distributed_table('eventbox_event', 'shard', colocate_with => 'none')").await;
    let told = eventbox::check(pool).await.unwrap_err().to_string();
    assert!(told.contains("has cut the rows of eventbox_event"), "{told}");
    db.run("SELECT undistribute_table('eventbox_event')").await;
    for _ in 0..2 {
        eventbox::migrate_citus_by_shard(pool).await.unwrap();
        assert_eq!(eventbox::layout(pool).await.unwrap(), Layout::ByShard);
        let cut = "SELECT count(DISTINCT colocation_id) FROM citus_tables WHERE citus_table_type = 'distributed'";
        assert_eq!(db.number(cut).await, 1);
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (20, 20));
    }
    for n in 0..20 {
        assert_eq!(eventbox::emit(pool, &to(n), named(n)).await.unwrap(), Emitted::Duplicate);
    }
    let told = eventbox::migrate_citus_schema(pool).await.unwrap_err().to_string();
    assert!(told.contains("Citus has cut the tables by shard"), "{told}");
    db.remove().await;
}

/// A database without the extension is refused before anything is changed.
#[tokio::test]
async fn a_database_without_citus_is_not_distributed() {
    if layout::is_citus() {
        return;
    }
    let db = TestDb::<Postgres>::empty("a_database_without_citus").await;
    let cut = eventbox::migrate_citus_by_shard(&db.pool).await;
    for error in [eventbox::migrate_citus_schema(&db.pool).await.unwrap_err(), cut.unwrap_err()] {
        assert!(matches!(error, Error::Setup { .. }), "{error:?}");
        assert!(error.to_string().contains("no extension citus"), "{error}");
    }
    assert_eq!(db.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'eventbox%'").await, 0);
    db.remove().await;
}

/// On a cluster, a schema with tables moves to a node with its rows. A second call changes nothing.
#[tokio::test]
async fn a_schema_is_distributed_with_its_rows() {
    if !layout::is_citus_schema() {
        return;
    }
    let db = TestDb::<Postgres>::empty("a_schema_is_distributed").await;
    let database = db.texts("SELECT current_database()::text").await.remove(0);
    db.run(format_args!("ALTER DATABASE {database} SET search_path = public")).await;
    let told = eventbox::migrate_citus_schema(&db.open(2)).await.unwrap_err().to_string();
    assert!(told.contains("schema public"), "{told}");
    db.run(format_args!("CREATE SCHEMA moved; ALTER DATABASE {database} SET search_path = moved")).await;
    let pool = db.open(4);
    eventbox::migrate(&pool).await.unwrap();
    let to = eventbox::Recipient::new("cell", "1").unwrap();
    eventbox::emit(&pool, &to, eventbox::Event::new("x").named("n")).await.unwrap();
    for _ in 0..2 {
        eventbox::migrate_citus_schema(&pool).await.unwrap();
        let schemas = "SELECT count(*) FROM citus_tables WHERE table_name::text LIKE 'moved.eventbox_%'";
        assert!(db.number(schemas).await >= 18);
        assert_eq!(db.number("SELECT count(*) FROM moved.eventbox_event").await, 1);
    }
    let again = eventbox::emit(&pool, &to, eventbox::Event::new("x").named("n")).await.unwrap();
    assert_eq!(again, eventbox::Emitted::Duplicate);
    pool.close().await;
    db.remove().await;
}
