//! Faults of the database, in the classes that callers act on. SQLSTATEs and SQLite codes are known only here.
//!
//! One table says for every code what it means, what is blamed, and whether the connection may go on. docs/errors.md
//! shows the table.

mod chain;
mod client;
mod result_code;
mod ruling;
mod shared;
mod sqlstate;

use std::fmt;

pub(crate) use chain::{blame_of, class_of, is_of_one_statement, leaves_unfit, retry_after};
use ruling::Ruling;
pub(crate) use ruling::{Blame, Class};
pub(crate) use shared::SharedFault;
use shared::shared_in;
use sqlx::error::DatabaseError;

use crate::error::Error;

/// An error of a statement, without the attempted work.
#[derive(Debug)]
pub struct Fault(pub(crate) sqlx::Error);

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Fault(error)
    }
}

impl Fault {
    /// Makes a fault of the wait for a connection, before any statement: nothing can have been committed.
    pub(crate) fn before_any_statement(error: sqlx::Error) -> Self {
        let fault = Fault(error);
        if fault.lost_the_answer() { SharedFault::of_no_statement(fault).into() } else { fault }
    }

    pub(crate) fn class(&self) -> Class {
        ruling_of(&self.0).class
    }

    /// Returns true when the connection must be closed: it broke, is read only, has stale plans, or has lost count of
    /// its transactions.
    pub(crate) fn connection_is_unfit(&self) -> bool {
        ruling_of(&self.0).closes
    }

    /// Returns true when the connection broke, so that the server may have run the statement and its answer was lost.
    pub(crate) fn lost_the_answer(&self) -> bool {
        if let Some(shared) = shared_in(&self.0) {
            return shared.lost_the_answer();
        }
        match &self.0 {
            sqlx::Error::Database(error) => error.code().is_some_and(|code| sqlstate::loses_the_answer(&code)),
            error => client::loses_the_answer(error),
        }
    }

    /// Returns the error of the database itself, also from a fault that several callers share.
    pub(crate) fn database_error(&self) -> Option<&(dyn DatabaseError + 'static)> {
        match shared_in(&self.0) {
            Some(shared) => shared.source_error().as_database_error(),
            None => self.0.as_database_error(),
        }
    }

    /// Returns true when the database takes no writes over this connection.
    pub(crate) fn is_read_only(&self) -> bool {
        let code = self.database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| code == "25006" || result_code::is_read_only(&code))
    }

    /// Returns true when another session uses what the statement needs, such as a slot of replication.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_of_an_object_in_use(&self) -> bool {
        self.database_error().and_then(|error| error.code()).is_some_and(|code| code == "55006")
    }

    /// Returns true when an earlier statement of the transaction failed, so that it can only be rolled back.
    pub(crate) fn is_of_a_failed_transaction(&self) -> bool {
        self.database_error().and_then(|error| error.code()).is_some_and(|code| code == "25P02")
    }

    /// Returns the public error, with the attempted work.
    pub(crate) fn during(self, attempt: impl fmt::Display) -> Error {
        let attempt = attempt.to_string();
        match self.class() {
            Class::Contention => Error::Contention { attempt, source: Some(self.0.into()) },
            Class::Transient => Error::Transient { attempt, source: self.0.into() },
            Class::Permanent => Error::Database { attempt, source: self.0.into() },
        }
    }

    /// Does the same for a statement that commits by itself and must not be repeated: after a lost answer the result is
    /// unknown.
    pub(crate) fn during_commit(self, attempt: impl fmt::Display) -> Error {
        if self.lost_the_answer() {
            return Error::Unknown { attempt: attempt.to_string(), source: self.0.into() };
        }
        self.during(attempt)
    }

    pub(crate) fn shared(self) -> SharedFault {
        SharedFault::of(self)
    }
}

/// Returns the ruling about an error, from the server or from the driver.
fn ruling_of(error: &sqlx::Error) -> Ruling {
    if let Some(shared) = shared_in(error) {
        return shared.ruling();
    }
    match error {
        sqlx::Error::Database(error) => ruling_of_database(error.as_ref()),
        error => client::of_client(error),
    }
}

/// Returns the ruling about an error of a database. Five characters are an SQLSTATE, digits alone a result code of
/// SQLite.
fn ruling_of_database(error: &(dyn DatabaseError + 'static)) -> Ruling {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return sqlstate::of_error(error);
    }
    let code = error.code().unwrap_or_default();
    match code.parse() {
        Ok(number) if code.len() != 5 => result_code::of_result_code(number, error.message()),
        _ => sqlstate::of_sqlstate(&code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/errors.md shows exactly the rows of the table; `EVENTBOX_BLESS=1` writes them.
    #[test]
    fn the_table_in_the_docs_is_current() {
        const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        let mut text = std::fs::read_to_string(PATH).unwrap();
        for (name, rules) in [
            ("sqlstates", sqlstate::SQLSTATES),
            ("result-codes", result_code::RESULT_CODES),
            ("client", client::CLIENT),
        ] {
            let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
            let lines: String = rules.iter().map(|rule| rule.line() + "\n").collect();
            let head = "| Code | What it is | Class | Blamed | Connection |\n| --- | --- | --- | --- | --- |\n";
            let (before, rest) = text.split_once(&begin).unwrap();
            let (found, after) = rest.split_once(&end).unwrap();
            let wanted = format!("\n{head}{lines}\n");
            if found != wanted {
                assert!(
                    std::env::var_os("EVENTBOX_BLESS").is_some(),
                    "docs/errors.md is stale: run EVENTBOX_BLESS=1 cargo test the_table_in_the_docs_is_current"
                );
                text = format!("{before}{begin}{wanted}{end}{after}");
                std::fs::write(PATH, &text).unwrap();
            }
        }
    }

    #[test]
    fn a_connection_that_was_never_had_commits_nothing() {
        let broken = || sqlx::Error::Protocol("an answer that is none".to_owned());
        assert!(Fault(broken()).lost_the_answer());
        let fault = Fault::before_any_statement(broken());
        assert!(!fault.lost_the_answer());
        assert_eq!((fault.class(), blame_of(&fault.0)), (Class::Transient, Blame::Environment));
        assert!(matches!(fault.during_commit("emit"), Error::Transient { .. }));
    }
}
