//! The rules of the code that a test can check.

use std::collections::BTreeSet;

use proc_macro2::TokenTree;

use crate::support::source::{all_files, every_run, is_ident, is_sql, paths_from_root, root, source_files, string_of};
use crate::support::{TestDb, TestEngine};

/// Modules from the top to the bottom. Each may use the modules below it.
const LAYERS: [&[&str]; 8] = [
    &["prometheus"],
    &["peer"],
    &["ingress", "dashboard", "shard_api", "source"],
    &["runtime", "admin", "testing"],
    &["dsset"],
    &["emitter", "eventbox", "grpc"],
    &["chip", "outbox"],
    &["store"],
];

/// Modules that every module may use, and that use only each other.
const LEAVES: [&str; 14] = [
    "clock",
    "cloudevent",
    "error",
    "heartbeat",
    "instrument",
    "json",
    "origin",
    "proto",
    "recipient",
    "retry",
    "room",
    "service",
    "shard",
    "text",
];

/// Largest number of lines of a file.
const MAX_LINES: usize = 400;

/// Places outside of `src/store` that may contain SQL. The ingress server and the demo have tables of their own.
/// So have the yardsticks of the benchmark, which also reads the counters of an engine.
const SQL_ELSEWHERE: [&str; 3] = ["ingress/store.rs", "cli/demo/", "cli/bench/yardstick/"];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Returns whether a file or folder exists, in the repository or in `src`; a `*` stands for both engines.
fn is_there(path: &str) -> bool {
    ["postgres", "sqlite"].iter().all(|engine| {
        let path = path.replace('*', engine);
        root().join(&path).exists() || root().join("src").join(&path).exists()
    })
}

fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Returns the problem with a use of one module by another, if there is one.
fn fault_of_arrow(from: &str, to: &str) -> Option<&'static str> {
    let is_leaf = |module| LEAVES.contains(&module);
    match (layer(from), layer(to)) {
        _ if from == to || is_leaf(to) => None,
        (_, None) => Some("is not a module: name the module and not the front page's re-export, or give it a layer"),
        (None, _) if is_leaf(from) => Some("is used by a leaf"),
        (None, _) => Some("is used by a module that has no layer: give it one"),
        (Some(from), Some(to)) if from < to => None,
        _ => Some("does not stand below"),
    }
}

#[test]
fn arrows_point_down() {
    let mut faults = Vec::new();
    for file in source_files().iter().filter(|file| file.path != "lib.rs") {
        let from = module_of(&file.path);
        for (to, line) in paths_from_root(file) {
            if let Some(fault) = fault_of_arrow(from, &to) {
                faults.push(format!("{}:{line}: {to} {fault}", file.path));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_arrow_that_points_up_is_noticed() {
    assert!(fault_of_arrow("store", "eventbox").is_some());
    assert!(fault_of_arrow("emitter", "eventbox").is_some());
    assert!(fault_of_arrow("eventbox", "emitter").is_some());
    assert!(fault_of_arrow("chip", "outbox").is_some());
    assert!(fault_of_arrow("outbox", "chip").is_some());
    assert!(fault_of_arrow("chip", "emitter").is_some());
    assert!(fault_of_arrow("error", "store").is_some());
    assert!(fault_of_arrow("eventbox", "sqlite_options").is_some());
    assert!(fault_of_arrow("eventbox", "dsset").is_some());
    assert!(fault_of_arrow("eventbox", "store").is_none());
    assert!(fault_of_arrow("store", "error").is_none());
}

#[test]
fn sql_stands_in_the_store() {
    let mut faults = Vec::new();
    for file in all_files() {
        let is_home = file.path.starts_with("store/") || SQL_ELSEWHERE.iter().any(|home| file.path.starts_with(home));
        if is_home {
            continue;
        }
        every_run(&file.code, &mut |run| {
            for token in run {
                if let TokenTree::Literal(literal) = token
                    && let Some(text) = string_of(literal).filter(|text| is_sql(text))
                {
                    faults.push(format!("{}:{}: {text}", file.path, literal.span().start().line));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The file that runs the commands of a migration one by one cuts a constant text, and builds none.
const CUTS_SQL: &str = "store/postgres/connect/schema.rs";

#[test]
fn sql_is_never_built() {
    let mut faults = Vec::new();
    for file in all_files().iter().filter(|file| file.path != CUTS_SQL) {
        for word in ["AssertSqlSafe", "QueryBuilder"] {
            every_run(&file.code, &mut |run| {
                if run.iter().any(|token| is_ident(Some(token), word)) {
                    faults.push(format!("{}: {word}", file.path));
                }
            });
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The length of an array decides the cost of its plan, and a sub-select hides it; see `store/postgres/mod.rs`.
#[test]
fn arrays_of_statements_hide_their_lengths() {
    let mut faults = Vec::new();
    for file in all_files().iter().filter(|file| file.path.starts_with("store/postgres/")) {
        every_run(&file.code, &mut |run| {
            for token in run {
                if let TokenTree::Literal(literal) = token
                    && string_of(literal).is_some_and(|text| text.contains("unnest($"))
                {
                    faults.push(format!("{}:{}", file.path, literal.span().start().line));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Times and time-ordered ids come from `clock.rs`, so that a test can move the clock.
#[test]
fn the_clock_is_never_bypassed() {
    let mut faults = Vec::new();
    for file in source_files().iter().filter(|file| file.path != "clock.rs") {
        every_run(&file.code, &mut |run| {
            for (at, token) in run.iter().enumerate() {
                let reads_time = is_ident(Some(token), "SystemTime") && is_ident(run.get(at + 3), "now");
                if reads_time || is_ident(Some(token), "now_v7") {
                    faults.push(format!("{}:{}", file.path, token.span().start().line));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_panics() {
    let mut faults = Vec::new();
    for file in all_files() {
        every_run(&file.code, &mut |run| {
            for (at, token) in run.iter().enumerate() {
                let TokenTree::Ident(word) = token else { continue };
                let follows =
                    |wanted| matches!(run.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
                let is_call = matches!(run.get(at + 1), Some(TokenTree::Group(_)));
                let panics = match word.to_string().as_str() {
                    "unwrap" | "expect" => is_call,
                    "panic" | "todo" | "unimplemented" | "unreachable" => follows('!'),
                    "unsafe" => true,
                    _ => false,
                };
                if panics {
                    faults.push(format!("{}:{}: {word}", file.path, word.span().start().line));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    let files = all_files();
    let long = files.iter().map(|file| (file.text.lines().count(), &file.path)).filter(|(lines, _)| *lines > MAX_LINES);
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
    assert!(files.len() > 20, "too few files of src were found");
}

/// Returns the text of all tests.
fn all_tests() -> String {
    fn read(directory: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => read(&path, all),
                false => all.push_str(&std::fs::read_to_string(path).unwrap_or_default()),
            }
        }
    }
    let mut tests = String::new();
    read(&root().join("tests/suite"), &mut tests);
    read(&root().join("cli/tests"), &mut tests);
    read(&root().join("src"), &mut tests);
    tests
}

/// Every test that docs/peers.md names for a trap or an acceptance case exists.
#[test]
fn the_tests_of_the_guide_of_peers_exist() {
    let (tests, text) = (all_tests(), std::fs::read_to_string(root().join("docs/peers.md")).unwrap());
    let (_, tables) = text.split_once("## Traps of the built system").expect("the traps are listed");
    let rows = tables.lines().filter(|line| line.starts_with("| ")).filter_map(|row| row.rsplit('|').nth(1));
    let named: Vec<&str> = rows.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect();
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(&format!("fn {name}"))).collect();
    assert!(missing.is_empty(), "docs/peers.md names tests that do not exist: {missing:?}");
    assert!(named.len() >= 33, "the tables were not found: {named:?}");
}

/// Every test that docs/leases.md names for an acceptance case exists.
#[test]
fn the_tests_of_the_guide_of_leases_exist() {
    let (tests, text) = (all_tests(), std::fs::read_to_string(root().join("docs/leases.md")).unwrap());
    let (_, cases) = text.split_once("## Acceptance cases").expect("the cases are listed");
    let (cases, _) = cases.split_once("do not apply").expect("a second table follows");
    let rows = cases.lines().filter(|line| line.starts_with("| ")).filter_map(|row| row.rsplit('|').nth(1));
    let named: Vec<&str> = rows.flat_map(|tests| tests.split('`').skip(1).step_by(2)).collect();
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(&format!("fn {name}"))).collect();
    assert!(missing.is_empty(), "docs/leases.md names tests that do not exist: {missing:?}");
    assert!(named.len() >= 13, "the table was not found: {named:?}");
}

/// Every test that ARCHITECTURE.md names exists.
#[test]
fn the_tests_of_the_invariants_exist() {
    let tests = all_tests();
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 5).collect();
    let guards = rows.iter().skip(1).flat_map(|row| row.split('|').nth(4).unwrap().split('`').skip(1).step_by(2));
    let missing: Vec<&str> = guards
        .filter(|guard| match guard.contains('/') {
            true => !root().join(guard).exists(),
            false => !tests.contains(&format!("fn {guard}")),
        })
        .collect();
    assert!(missing.is_empty(), "named in ARCHITECTURE.md, but not found: {missing:?}");
    let column = |row: &&str| row.split('|').nth(3).unwrap_or_default().to_owned();
    let steps: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 4).collect();
    let named: String = rows.iter().chain(steps.iter().filter(|row| row.contains(".rs`"))).map(column).collect();
    let gone: Vec<&str> = named.split('`').skip(1).step_by(2).filter(|file| !is_there(file)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names files that do not exist: {gone:?}");
    assert!(steps.len() >= 10, "the steps of one event were not found");
    assert!(rows.len() > 20, "the table was not found");
}

#[test]
fn migrations_have_the_same_names() {
    let names = |engine| -> BTreeSet<String> {
        let directory = std::fs::read_dir(root().join("migrations").join(engine)).unwrap();
        directory.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names("postgres"), names("sqlite"));
    assert!(!names("postgres").is_empty());
}

/// Both engines have the same tables, columns and keys, and types that hold the same values.
/// The test reads them from the migrated databases.
#[cfg(all(feature = "postgres", feature = "sqlite"))]
#[tokio::test]
async fn migrations_are_twins() {
    const IN_POSTGRES: &str = "
        SELECT c.table_name || '.' || c.column_name || ' ' || c.is_nullable || ' '
            || CASE c.udt_name
                   WHEN 'text' THEN 'TEXT' WHEN 'uuid' THEN 'BLOB' WHEN 'bytea' THEN 'BLOB' ELSE 'INTEGER' END
            || coalesce(' key ' || k.ordinal_position, '')
        FROM information_schema.columns c
        LEFT JOIN information_schema.key_column_usage k USING (table_name, column_name)
        WHERE c.table_name LIKE 'eventbox\\_%' AND c.table_name <> 'eventbox_migration'";
    const IN_SQLITE: &str = "
        SELECT t.name || '.' || c.name || ' ' || iif(c.\"notnull\", 'NO', 'YES') || ' '
            || c.type || iif(c.pk > 0, ' key ' || c.pk, '')
        FROM sqlite_schema t, pragma_table_info(t.name) c
        WHERE t.type = 'table' AND t.name LIKE 'eventbox%' AND t.name <> 'eventbox_migration'";

    async fn columns<B: TestEngine>(sql: &str) -> BTreeSet<String> {
        let db = TestDb::<B>::empty("migrations_are_twins").await;
        eventbox::migrate(&db.pool).await.unwrap();
        let columns = db.texts(sql).await.into_iter().collect();
        db.remove().await;
        columns
    }
    let (in_postgres, in_sqlite) =
        (columns::<sqlx::Postgres>(IN_POSTGRES).await, columns::<sqlx::Sqlite>(IN_SQLITE).await);
    let differing: Vec<_> = in_postgres.symmetric_difference(&in_sqlite).collect();
    assert!(differing.is_empty(), "on one engine only: {differing:#?}");
    assert!(in_postgres.len() > 20, "{in_postgres:?}");
}
