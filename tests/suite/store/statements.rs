//! Every statement of the store is prepared by the engine that it is for.

use crate::support::source::statements;
use crate::support::{TestEngine, on_every_engine};

on_every_engine! {
    async fn every_statement_is_accepted(db) {
        let statements = statements(Engine::FOLDER);
        let mut faults = Vec::new();
        for statement in &statements {
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
