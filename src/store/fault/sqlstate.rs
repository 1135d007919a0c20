//! The rulings about Postgres' SQLSTATEs. A single code stands before its class.

use super::ruling::{CONTENTION, DATA, DEPLOYMENT, HINDERED, Rule, Ruling, SCHEMA, TRANSIENT, rule};

/// Name of the place in Postgres' code that refuses a prepared statement whose table was altered.
#[cfg(feature = "postgres")]
const STALE_PLAN_ROUTINE: &str = "RevalidateCachedQuery";

/// A prepared statement whose table was altered. Its SQLSTATE is that of a missing feature.
const STALE_PLAN: Ruling = CONTENTION.closing();

/// Any code that is not in the table, as functions and triggers of users raise them.
const OTHER: Ruling = DATA;

pub(super) static SQLSTATES: &[Rule] = &[
    rule("00", "successful completion", TRANSIENT),
    rule("01", "a warning that was raised as an error", DATA),
    rule("02", "no data", DATA),
    rule("03", "the statement is not complete", SCHEMA),
    rule("08", "the connection, or one of the server's own, broke", TRANSIENT.closing()),
    rule("09", "an action of a trigger failed", DATA),
    rule("0A", "a feature that the server does not have", SCHEMA),
    rule("0B", "a transaction cannot begin", SCHEMA.closing()),
    rule("0F", "a locator is wrong", SCHEMA),
    rule("0L", "a grantor is wrong", SCHEMA),
    rule("0P", "a role is wrong", SCHEMA),
    rule("0Z", "diagnostics outside of a handler", SCHEMA),
    rule("10", "an XML query failed", DATA),
    rule("20", "no case of a CASE fits", DATA),
    rule("21", "one row was expected, and there are more", DATA),
    rule("22", "the data is wrong: too long, out of range, a NUL, no UTF-8", DATA),
    rule("23", "a constraint is violated", DATA),
    rule("24", "a cursor is not in the right state", SCHEMA),
    rule("25006", "the transaction is read only: a standby, or default_transaction_read_only", TRANSIENT.closing()),
    rule("25P02", "an earlier error, which was not handed on, aborted the transaction", DATA),
    rule("25P03", "the session was idle in a transaction for too long", TRANSIENT.closing()),
    rule("25P04", "the transaction took longer than transaction_timeout", TRANSIENT.closing()),
    rule("25", "a transaction is not in the right state", SCHEMA.closing()),
    rule("26", "no such prepared statement: a pooler has given another connection", CONTENTION.closing()),
    rule("27", "a trigger has changed the same row", DATA),
    rule("28", "the password, the role or the host is refused", DEPLOYMENT),
    rule("2B", "a right that others depend on", SCHEMA),
    rule("2D", "a function ends the transaction", SCHEMA),
    rule("2F", "a function of SQL failed", SCHEMA),
    rule("34", "no such cursor", SCHEMA),
    rule("38", "an external function failed", DATA),
    rule("39", "an external function was called wrongly", DATA),
    rule("3B", "a savepoint is wrong", SCHEMA),
    rule("3D", "no such database", DEPLOYMENT),
    rule("3F", "no such schema", SCHEMA),
    rule("40002", "a constraint is violated at the commit", DATA),
    rule("40003", "it is not known whether the statement was done", TRANSIENT.closing()),
    rule("40", "a serialization failure or a deadlock", CONTENTION),
    rule("42P05", "such a prepared statement is there: a pooler has given another connection", CONTENTION.closing()),
    rule("42", "no such table or function, no right to it, wrong statement", SCHEMA),
    rule("44", "a row does not fit its view", DATA),
    rule("53", "no disk, no memory, or too many connections", TRANSIENT),
    rule("54", "a limit of the server: too large, or too complex", DATA),
    rule("55P03", "a lock was not had in time", CONTENTION),
    rule("55006", "an object is in use", HINDERED),
    rule("55", "an object is not in the right state", SCHEMA),
    rule("57014", "the statement was cancelled: statement_timeout, or pg_cancel_backend", HINDERED),
    rule("57P", "the session was ended, or the server starts or stops", TRANSIENT.closing()),
    rule("57", "an operator has intervened", TRANSIENT),
    rule("58P", "the server does not find a file, or finds one too many", HINDERED),
    rule("58", "the server's system failed: a file, or an I/O error", TRANSIENT),
    rule("72", "the snapshot is too old", CONTENTION),
    rule("F0", "the server's configuration file is wrong", TRANSIENT),
    rule("HV", "a foreign server failed", HINDERED),
    rule("P0000", "PL/pgSQL is wrong", SCHEMA),
    rule("P0", "PL/pgSQL raised an error", DATA),
    rule("XX", "an internal error, or corrupted data", TRANSIENT.closing()),
];

/// Returns the ruling about an SQLSTATE.
pub(super) fn of_sqlstate(code: &str) -> Ruling {
    SQLSTATES.iter().find(|rule| code.starts_with(rule.code)).map_or(OTHER, |rule| rule.ruling)
}

/// Returns the ruling about an error of Postgres, which says more than its code.
#[cfg(feature = "postgres")]
pub(super) fn of_error(error: &sqlx::postgres::PgDatabaseError) -> Ruling {
    use sqlx::postgres::PgSeverity;
    // By the routine and not by the text, because servers translate the text.
    let is_stale = error.code() == "0A000" && error.routine() == Some(STALE_PLAN_ROUTINE);
    let ruling = if is_stale { STALE_PLAN } else { of_sqlstate(error.code()) };
    match error.severity() {
        // The server has ended the session.
        PgSeverity::Fatal | PgSeverity::Panic => ruling.closing(),
        _ => ruling,
    }
}

/// Returns whether the server may have run the statement when the session ended with this code.
pub(super) fn loses_the_answer(code: &str) -> bool {
    // The server ran nothing for a session that was idle for too long, or that it did not accept.
    const NOT_ASKED: [&str; 2] = ["57P03", "57P05"];
    (code.starts_with("57P0") || code.starts_with("08") || code == "40003") && !NOT_ASKED.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::super::ruling::{Blame, Class};
    use super::*;

    #[test]
    fn a_code_stands_before_its_class() {
        for (at, rule) in SQLSTATES.iter().enumerate() {
            let hidden = SQLSTATES.iter().take(at).find(|before| rule.code.starts_with(before.code));
            assert!(hidden.is_none(), "{hidden:?} hides {rule:?}");
        }
    }

    #[test]
    fn each_code_has_its_class() {
        let of = |code| {
            let Ruling { class, blame, closes, .. } = of_sqlstate(code);
            (class, blame, closes)
        };
        for code in ["40001", "40P01", "55P03", "72000"] {
            assert_eq!(of(code), (Class::Contention, Blame::Environment, false), "{code}");
        }
        for code in ["26000", "42P05"] {
            assert_eq!(of(code), (Class::Contention, Blame::Environment, true), "{code}");
        }
        for code in ["53100", "53200", "53300", "57014", "55006", "58030", "HV00N"] {
            assert_eq!(of(code), (Class::Transient, Blame::Environment, false), "{code}");
        }
        for code in ["08006", "08P01", "25006", "25P03", "57P01", "57P02", "57P04", "XX000", "XX001"] {
            assert_eq!(of(code), (Class::Transient, Blame::Environment, true), "{code}");
        }
        for code in ["21000", "22021", "22P05", "22003", "23505", "23503", "25P02", "54000", "P0001", "MY001"] {
            assert_eq!(of(code), (Class::Permanent, Blame::Event, false), "{code}");
        }
        for code in ["42P01", "42501", "42703", "0A000", "3F000", "55000"] {
            assert_eq!(of(code), (Class::Permanent, Blame::Code, false), "{code}");
        }
        for code in ["28P01", "28000", "3D000"] {
            assert_eq!(of(code), (Class::Permanent, Blame::Environment, true), "{code}");
        }
    }

    #[test]
    fn an_answer_is_lost_only_when_something_was_asked() {
        for code in ["57P01", "57P02", "08006", "08P01", "40003"] {
            assert!(loses_the_answer(code), "{code}");
        }
        for code in ["57P03", "57P05", "57014", "25P03", "53300", "28P01", "25006"] {
            assert!(!loses_the_answer(code), "{code}");
        }
    }
}
