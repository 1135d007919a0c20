//! The version that landed last, as files: its migrations, the schema that they leave, and its statements.
//!
//! `EVENTBOX_BLESS=release cargo xtask test migrating` makes the source of today the released version: it writes the
//! files anew. Run it on the commit of a release, and adapt the arguments in `statements.rs`. `EVENTBOX_BLESS=1` writes
//! the schemas only, which the released migrations decide.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use ::eventbox::Backend;
use sha2::{Digest, Sha256};
use sqlx::{Postgres, Sqlite};

use crate::support::source::{self, root};
use crate::support::{TestDb, TestEngine, layout, on_every_engine};

/// Folder of the files.
const FOLDER: &str = "tests/suite/migrating/released";

/// Bytes above which a statement is not recorded: those of SQLite with hundreds of rows, which have shorter twins.
const LONGEST: usize = 8_000;

/// Line that begins a statement, before the file and the name of the statement.
const MARK: &str = "=== ";

fn is_blessed() -> bool {
    std::env::var("EVENTBOX_BLESS").is_ok_and(|what| what == "release")
}

fn path(file: &str) -> PathBuf {
    root().join(FOLDER).join(file)
}

/// Returns the text of a file. Writes it before, if that is asked for.
fn recorded(file: &str, is_written: bool, today: impl FnOnce() -> String) -> String {
    if is_written {
        std::fs::write(path(file), today()).unwrap();
    }
    std::fs::read_to_string(path(file)).unwrap()
}

/// A migration, as the file records it.
struct Recorded {
    version: i64,
    line: String,
}

/// Returns a line for each migration of today: its number, its name, and the digests of its two texts.
fn migrations_of_today() -> Vec<Recorded> {
    let digest = |sql: &str| {
        Sha256::digest(sql.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
    };
    let twins = ::eventbox::migration_sql::<Postgres>().into_iter().zip(::eventbox::migration_sql::<Sqlite>());
    let recorded = twins.map(|((version, name, postgres), (_, _, sqlite))| Recorded {
        version,
        line: format!("{version} {} postgres {} sqlite {}", name.replace(' ', "_"), digest(&postgres), digest(&sqlite)),
    });
    recorded.collect()
}

/// Returns the number of the last released migration.
pub(super) fn newest() -> i64 {
    if is_blessed() {
        return migrations_of_today().last().unwrap().version;
    }
    let lines = std::fs::read_to_string(path("migrations.txt")).unwrap();
    lines.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Returns the number and the text of each migration that is newer than the released version.
pub(super) fn newer<B: Backend>() -> Vec<(i64, String)> {
    let newest = newest();
    let all = ::eventbox::migration_sql::<B>().into_iter();
    all.filter(|(version, _, _)| *version > newest).map(|(version, _, sql)| (version, sql)).collect()
}

/// A statement of the released version.
pub(super) struct Statement {
    /// Its file below `src` without the ending, and the name of its constant, if it has one.
    pub(super) label: String,
    pub(super) sql: String,
}

/// Returns the statements of the released version on the tables of an engine.
pub(super) fn statements<B: TestEngine>() -> Vec<Statement> {
    let text = recorded(&format!("statements.{}.txt", B::FOLDER), is_blessed(), || statements_of_today(B::FOLDER));
    let parts = text.split(MARK).skip(1);
    let statements = parts.map(|part| {
        let (label, sql) = part.split_once('\n').unwrap();
        Statement { label: label.to_owned(), sql: sql.trim_end().to_owned() }
    });
    statements.collect()
}

fn statements_of_today(engine: &str) -> String {
    let mut seen = BTreeSet::new();
    let all = source::statements(engine).into_iter();
    // A server without Citus knows none of its tables.
    let all = all.filter(|statement| !statement.place.contains("connect/citus.rs"));
    let all = all.filter(|statement| statement.sql.contains("eventbox_") && statement.sql.len() <= LONGEST);
    let parts = all.filter(|statement| seen.insert(statement.sql.clone())).map(|statement| {
        assert!(!statement.sql.contains(MARK), "{}", statement.place);
        let file = statement.place.split(".rs:").next().unwrap().trim_start_matches("src/");
        let name = statement.name.map(|name| format!(" {name}")).unwrap_or_default();
        format!("{MARK}{file}{name}\n{}\n", statement.sql.trim())
    });
    parts.collect()
}

/// The commit whose source is the released version, for `cargo xtask upgrade`.
#[test]
fn the_released_commit_is_recorded() {
    let head = || {
        let git = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()).output().unwrap();
        String::from_utf8(git.stdout).unwrap()
    };
    let commit = recorded("commit.txt", is_blessed(), head);
    let commit = commit.trim();
    assert!(commit.len() == 40 && commit.bytes().all(|letter| letter.is_ascii_hexdigit()), "{commit}");
}

/// A database that has a migration refuses a program that has another text of it.
#[test]
fn a_released_migration_never_changes() {
    let today = migrations_of_today();
    let text = || today.iter().map(|migration| format!("{}\n", migration.line)).collect();
    let released = recorded("migrations.txt", is_blessed(), text);
    for line in released.lines() {
        assert!(
            today.iter().any(|migration| migration.line == line),
            "released, and now another text or none: {line}\nA change is a migration of its own."
        );
    }
    let newest = newest();
    let between = today.iter().filter(|migration| migration.version <= newest).count();
    assert_eq!(between, released.lines().count(), "a new migration has a number below {newest}");
}

/// What the catalogue of an engine tells of the tables.
trait Catalogue: TestEngine {
    /// A text for each part of the schema.
    const SCHEMA: &'static str;
    /// The names of the tables.
    const TABLES: &'static str;
}

impl Catalogue for Postgres {
    const SCHEMA: &'static str = "
WITH ours AS (
    SELECT c.* FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relname LIKE 'eventbox%'
), part (sort, place, number, text) AS (
    SELECT 1, relname::text, 0, concat_ws(' ', 'relation', relname, relkind, reloptions::text) FROM ours
    WHERE relkind <> 'i'
    UNION ALL
    SELECT 2, o.relname, a.attnum::int, concat_ws(' ', 'column', o.relname || '.' || a.attname,
           format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || quote_ident(l.collname) END,
           CASE WHEN a.attnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    LEFT JOIN pg_attrdef d ON d.adrelid = o.oid AND d.adnum = a.attnum
    WHERE o.relkind <> 'i'
    UNION ALL
    SELECT 3, o.relname, 0, concat_ws(' ', 'constraint', o.relname, n.conname, pg_get_constraintdef(n.oid))
    FROM ours o JOIN pg_constraint n ON n.conrelid = o.oid AND n.contype <> 'n'
    UNION ALL
    SELECT 4, relname, 0, replace(pg_get_indexdef(oid), current_schema() || '.', '') FROM ours WHERE relkind = 'i'
    UNION ALL
    SELECT 5, o.relname, 0, replace(pg_get_triggerdef(r.oid), current_schema() || '.', '')
    FROM ours o JOIN pg_trigger r ON r.tgrelid = o.oid AND NOT r.tgisinternal
    UNION ALL
    SELECT 6, p.proname, 0, replace(pg_get_functiondef(p.oid), current_schema() || '.', '')
    FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace AND p.prokind = 'f'
)
SELECT text FROM part ORDER BY sort, place COLLATE \"C\", number, text COLLATE \"C\"";

    const TABLES: &'static str = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'eventbox%'
        AND relnamespace = current_schema()::regnamespace ORDER BY relname::text COLLATE \"C\"";
}

impl Catalogue for Sqlite {
    const SCHEMA: &'static str =
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name LIKE 'eventbox%' ORDER BY type, name";

    const TABLES: &'static str =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'eventbox%' ORDER BY name";
}

/// Returns the schema of a database, and the number of rows that the migrations put into each table.
async fn schema_of<B: Catalogue>(db: &TestDb<B>) -> String {
    let mut text: String = db.texts(B::SCHEMA).await.into_iter().map(|part| part + "\n").collect();
    for table in db.texts(B::TABLES).await {
        writeln!(text, "rows {table} {}", db.count(&table).await).unwrap();
    }
    text
}

on_every_engine! {
    /// Today's migrations, up to the last released one, leave the tables of the released version.
    async fn the_released_migrations_leave_the_released_schema(_db) {
        if layout::is_citus() {
            return;
        }
        let fresh = TestDb::<Engine>::empty("the_released_schema").await;
        let newest = newest();
        for (version, _, sql) in ::eventbox::migration_sql::<Engine>() {
            if version <= newest {
                fresh.run(sql).await;
            }
        }
        let schema = schema_of(&fresh).await;
        let is_written = std::env::var_os("EVENTBOX_BLESS").is_some();
        let released = recorded(&format!("schema.{}.txt", Engine::FOLDER), is_written, || schema.clone());
        assert!(schema == released, "the schema of migration {newest} was\n{released}\nand is now\n{schema}");
        fresh.remove().await;
    }
}
