//! Every statement of the store, prepared by its engine.

use crate::support::source::statements;
use crate::support::{TestEngine, on_every_engine};

on_every_engine! {
    async fn every_statement_is_accepted(db) {
        let statements = statements(Engine::FOLDER);
        let mut faults = Vec::new();
        // A server without Citus knows none of its tables.
        let plain = statements.iter().filter(|statement| !statement.place.contains("connect/citus.rs"));
        for statement in plain {
            if let Err(error) = Engine::prepare(&db.pool, statement.sql.clone()).await {
                faults.push(format!("{}: {error}\n{}", statement.place, statement.sql));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n\n"));
        assert!(statements.len() > 10, "only {} statements were found", statements.len());
        for name in ["LIST_EVENTS", "DELETE_EVENTS", "INSERT_EVENTS"] {
            assert!(statements.iter().any(|statement| statement.name.as_deref() == Some(name)), "{name} was not found");
        }
    }

    async fn a_wrong_statement_is_noticed(db) {
        assert!(Engine::prepare(&db.pool, "SELECT no_such_column FROM eventbox_event".to_owned()).await.is_err());
    }
}

/// SQLite plans a statement again for every value bound to a bare parameter of LIMIT or OFFSET.
#[test]
fn no_limit_on_sqlite_is_a_bare_parameter() {
    fn is_planned_again(sql: &str) -> bool {
        let words: Vec<&str> = sql.split_whitespace().collect();
        words.iter().enumerate().any(|(at, word)| {
            let is_parameter = words.get(at + 1).is_some_and(|next| next.starts_with('$'));
            let is_part = words.get(at + 2).is_some_and(|next| ["+", "-", "*"].contains(next));
            ["LIMIT", "OFFSET"].contains(word) && is_parameter && !is_part
        })
    }
    assert!(is_planned_again("SELECT 1 LIMIT $1") && is_planned_again("SELECT (SELECT 1 LIMIT 1 OFFSET $2) AS one"));
    assert!(!is_planned_again("SELECT 1 LIMIT $1 + 0") && !is_planned_again("SELECT 1 LIMIT 1 OFFSET $2 - 1"));
    let statements = statements("sqlite");
    let faults: Vec<_> = statements.iter().filter(|statement| is_planned_again(&statement.sql)).collect();
    assert!(faults.is_empty(), "{:#?}", faults.iter().map(|fault| (&fault.place, &fault.sql)).collect::<Vec<_>>());
}
