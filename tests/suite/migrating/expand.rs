//! Each migration that is newer than the released version only adds, so that the released version goes on beside it.
//!
//! The checker knows few forms of commands, and refuses all others. A command of another form that is harmless stands
//! in [`EXCUSED`], with the reason.

use std::collections::BTreeSet;

use sqlx::{Postgres, Sqlite};

use super::released::newer;
use crate::support::TestEngine;

/// A command that the checker refuses, and that does not harm the released version.
struct Excuse {
    engine: &'static str,
    version: i64,
    /// The first words of the command, with one space between two.
    command: &'static str,
    /// Why the released version goes on.
    reason: &'static str,
}

/// Each of them has a released statement in `statements.rs` that runs on the changed schema.
const EXCUSED: &[Excuse] = &[];

/// Returns the words of each command, without comments. Brackets and commas are words, and so is a quoted text.
fn commands_of(sql: &str) -> Vec<Vec<String>> {
    let (mut commands, mut command) = (Vec::new(), Vec::<String>::new());
    let mut letters = sql.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '-' if letters.peek() == Some(&'-') => while letters.next_if(|next| *next != '\n').is_some() {},
            ';' => {
                let is_trigger = command.get(1).is_some_and(|word| word.eq_ignore_ascii_case("TRIGGER"))
                    && command[0].eq_ignore_ascii_case("CREATE");
                if is_trigger && !command.last().is_some_and(|word| word.eq_ignore_ascii_case("END")) {
                    command.push(";".to_owned());
                } else {
                    commands.push(std::mem::take(&mut command));
                }
            }
            '\'' | '"' => {
                let mut text = letter.to_string();
                text.extend(letters.by_ref().take_while(|next| *next != letter));
                command.push(text + &letter.to_string());
            }
            '(' | ')' | ',' => command.push(letter.to_string()),
            letter if letter.is_whitespace() => {}
            letter => {
                let mut word = letter.to_string();
                while let Some(next) = letters.next_if(|next| !next.is_whitespace() && !"(),;'\"".contains(*next)) {
                    word.push(next);
                }
                command.push(word);
            }
        }
    }
    commands.push(command);
    commands.retain(|command| !command.is_empty());
    commands
}

/// Returns the words of a command in capitals, so that two of them are easily compared.
fn in_capitals(command: &[String]) -> Vec<String> {
    command.iter().map(|word| word.to_ascii_uppercase()).collect()
}

/// Returns why a released version may fail beside a command. Adds to `new` what the command creates.
fn fault_of(command: &[String], new: &mut BTreeSet<String>) -> Option<&'static str> {
    let words = in_capitals(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["SELECT", "1"] => None,
        ["CREATE", "TABLE", name, "(", ..] | ["CREATE", "VIEW", name, "AS", ..] => {
            new.insert((*name).to_owned());
            None
        }
        ["CREATE", "INDEX", _, "ON", of, rest @ ..] => {
            let is_plain = rest.iter().filter(|word| **word == "(").count() == 1;
            (!is_plain && !new.contains(*of)).then_some("an expression of an index may fail for values of old rows")
        }
        ["CREATE", "UNIQUE", "INDEX", _, "ON", of, ..] => {
            (!new.contains(*of)).then_some("the released version does not know that values are unique")
        }
        ["CREATE", "TRIGGER", ..] => {
            let mut of = words.iter().skip_while(|word| **word != "ON").skip(1);
            let is_new = of.next().is_some_and(|of| new.contains(*of));
            (!is_new).then_some("a trigger changes the effect of released statements")
        }
        ["INSERT", "INTO", into, ..] => {
            (!new.contains(*into)).then_some("the released version does not expect new rows")
        }
        ["ALTER", "TABLE", table, ..] if new.contains(*table) => None,
        // Settings of the storage.
        ["ALTER", "TABLE", _, "SET", "(", ..] => None,
        ["ALTER", "TABLE", _, "ADD", "COLUMN", _, _, rest @ ..] => fault_of_column(rest),
        _ => Some("the checker does not know that the command only adds"),
    }
}

/// Returns why the released version may fail beside a new column, whose name and type come before these words.
fn fault_of_column(words: &[&str]) -> Option<&'static str> {
    let constraints = ["CHECK", "CONSTRAINT", "GENERATED", "IDENTITY", "PRIMARY", "REFERENCES", "UNIQUE"];
    if words.contains(&",") {
        return Some("a command of several changes: write one command for each");
    }
    if words.iter().any(|word| constraints.contains(word)) {
        return Some("rows of the released version may break a constraint");
    }
    let default = words.iter().skip_while(|word| **word != "DEFAULT").nth(1).copied();
    let is_constant = |value: &str| {
        value.starts_with('\'') || ["TRUE", "FALSE", "NULL"].contains(&value) || value.parse::<f64>().is_ok()
    };
    match default {
        Some(value) if !is_constant(value) => Some("a default that is no constant rewrites the table"),
        None if words.windows(2).any(|pair| pair == ["NOT", "NULL"]) => {
            Some("the released version inserts no value into the column")
        }
        _ => None,
    }
}

/// Returns the commands that may harm the released version, with the reasons.
fn faults<B: TestEngine>(migrations: &[(i64, String)], excused: &[Excuse]) -> Vec<String> {
    let (mut new, mut faults) = (BTreeSet::new(), Vec::new());
    for (version, sql) in migrations {
        for command in commands_of(sql) {
            let text = command.join(" ");
            let is_excused = excused.iter().any(|excuse| {
                excuse.engine == B::FOLDER && excuse.version == *version && text.starts_with(excuse.command)
            });
            if let Some(fault) = fault_of(&command, &mut new)
                && !is_excused
            {
                faults.push(format!("{} {version}: {text}: {fault}", B::FOLDER));
            }
        }
    }
    faults
}

/// docs/operating.md promises that a release and the one before it run beside each other.
#[test]
fn a_migration_only_adds() {
    let mut all = faults::<Postgres>(&newer::<Postgres>(), EXCUSED);
    all.extend(faults::<Sqlite>(&newer::<Sqlite>(), EXCUSED));
    assert!(
        all.is_empty(),
        "The released version runs beside each new migration, so a migration only adds. A command that does no harm \
         is excused with a reason, and has a test.\n{}",
        all.join("\n")
    );
}

/// An excuse that nothing needs any more would excuse something else.
#[test]
fn every_excuse_is_needed() {
    for excuse in EXCUSED {
        assert!(!excuse.reason.is_empty());
        let without = match excuse.engine {
            "postgres" => faults::<Postgres>(&newer::<Postgres>(), &[]),
            _ => faults::<Sqlite>(&newer::<Sqlite>(), &[]),
        };
        let begin = format!("{} {}: {}", excuse.engine, excuse.version, excuse.command);
        assert!(without.iter().any(|fault| fault.starts_with(&begin)), "{begin}");
    }
}

/// Returns the first fault of a text.
fn fault_in(sql: &str) -> Option<&'static str> {
    let mut new = BTreeSet::new();
    commands_of(sql).iter().find_map(|command| fault_of(command, &mut new))
}

#[test]
fn a_migration_that_takes_away_is_noticed() {
    for sql in [
        "DROP TABLE eventbox_timer;",
        "DROP INDEX eventbox_outbox_due;",
        "DROP TRIGGER eventbox_named_emit_insert;",
        "ALTER TABLE eventbox_event DROP COLUMN origin;",
        "ALTER TABLE eventbox_event RENAME TO eventbox_box;",
        "ALTER TABLE eventbox_event RENAME COLUMN value TO payload;",
        "ALTER TABLE eventbox_event ALTER COLUMN shard TYPE int4;",
        "ALTER TABLE eventbox_event ALTER COLUMN traceparent SET NOT NULL;",
        "ALTER TABLE eventbox_event ALTER COLUMN value DROP DEFAULT;",
        "ALTER TABLE eventbox_event ADD CONSTRAINT short CHECK (octet_length(value) < 9);",
        "ALTER TABLE eventbox_event ADD COLUMN size int8 NOT NULL;",
        "ALTER TABLE eventbox_event ADD COLUMN at timestamptz DEFAULT clock_timestamp();",
        "ALTER TABLE eventbox_event ADD COLUMN n int8 UNIQUE;",
        "ALTER TABLE eventbox_event ADD COLUMN n int8 CHECK (n > 0);",
        "ALTER TABLE eventbox_event ADD COLUMN n int8, DROP COLUMN origin;",
        "CREATE UNIQUE INDEX one ON eventbox_event (id);",
        "CREATE INDEX numbers ON eventbox_event ((convert_from(value, 'UTF8')::int8));",
        "CREATE INDEX CONCURRENTLY slow ON eventbox_event (id);",
        "CREATE TRIGGER t BEFORE INSERT ON eventbox_event BEGIN SELECT 1; END;",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
        "CREATE TABLE IF NOT EXISTS eventbox_new (n int8);",
        "INSERT INTO eventbox_paused_kind (kind, paused_at_us) VALUES ('order', 0);",
        "UPDATE eventbox_state SET turn = turn + 1;",
        "DELETE FROM eventbox_tombstone;",
        "SELECT pg_sleep(60);",
        "-- A comment; with a semicolon.\nCREATE TABLE eventbox_new (n int8);\nTRUNCATE eventbox_event",
    ] {
        assert!(fault_in(sql).is_some(), "{sql}");
    }
}

#[test]
fn a_migration_that_adds_is_accepted() {
    for sql in [
        "SELECT 1;",
        "ALTER TABLE eventbox_event ADD COLUMN size int8;",
        "ALTER TABLE eventbox_event ADD COLUMN size int8 NOT NULL DEFAULT 0;",
        "ALTER TABLE eventbox_event ADD COLUMN labels text NOT NULL DEFAULT '{\"a\": [1, 2]}'; -- JSON, and so on;",
        "ALTER TABLE eventbox_event SET (vacuum_truncate = off);",
        "CREATE INDEX eventbox_event_id ON eventbox_event (id, shard) WHERE name IS NOT NULL;",
        "CREATE TABLE eventbox_new (n int8 PRIMARY KEY, m int8 CHECK (m > 0));
         CREATE UNIQUE INDEX eventbox_new_m ON eventbox_new (abs(m));
         ALTER TABLE eventbox_new ADD COLUMN k int8 UNIQUE;
         INSERT INTO eventbox_new (n) SELECT generate_series(0, 255);",
        "CREATE VIEW eventbox_door AS SELECT n FROM eventbox_new;
         CREATE TRIGGER eventbox_door_insert INSTEAD OF INSERT ON eventbox_door BEGIN
             SELECT 1;
             DELETE FROM eventbox_event WHERE shard = new.n;
         END;",
    ] {
        assert_eq!(fault_in(sql), None, "{sql}");
    }
}

/// The checker reads real migrations: those since the seventh only add, but for the view of emits that SQLite makes
/// again with a new column.
#[test]
fn the_checker_reads_the_migrations_of_old() {
    let since = |all: Vec<(i64, String, String)>| {
        let some = all.into_iter().filter(|(version, ..)| (7..=14).contains(version));
        some.map(|(version, _, sql)| (version, sql)).collect::<Vec<_>>()
    };
    let (postgres, sqlite) =
        (since(::eventbox::migration_sql::<Postgres>()), since(::eventbox::migration_sql::<Sqlite>()));
    assert_eq!((postgres.len(), sqlite.len()), (7, 7));
    assert!(faults::<Postgres>(&postgres, &[]).is_empty(), "{:#?}", faults::<Postgres>(&postgres, &[]));
    let of_sqlite = faults::<Sqlite>(&sqlite, &[]);
    let refused: Vec<_> = of_sqlite.iter().filter_map(|fault| fault.rsplit_once(": ")).map(|(at, _)| at).collect();
    assert_eq!(
        refused,
        ["sqlite 10: DROP TRIGGER eventbox_named_emit_insert", "sqlite 10: DROP VIEW eventbox_named_emit"]
    );
    let excuse = Excuse { engine: "sqlite", version: 10, command: "DROP TRIGGER", reason: "it is made again" };
    assert_eq!(faults::<Sqlite>(&sqlite, &[excuse]).len(), 1);
}
