//! The rulings about SQLite's result codes. An extended code stands before its primary one, which is its low byte.

use super::ruling::{CONTENTION, DATA, DEPLOYMENT, Rule, Ruling, SCHEMA, TRANSIENT, rule};

/// SQLite may have rolled the transaction back by itself after these, so that the driver's count of it is wrong.
const MAY_HAVE_ROLLED_BACK: Ruling = TRANSIENT.closing();

/// Texts of SQLite about data under its general code, at run time; anything else under that code is a wrong statement
/// or a missing table.
const TEXTS_OF_DATA: [&str; 7] = [
    "malformed JSON",
    "bad JSON path",
    "JSON cannot hold BLOB values",
    "integer overflow",
    "LIKE or GLOB pattern too complex",
    "ESCAPE expression must be a single character",
    "too many levels of trigger recursion",
];

/// A transaction that the driver does not count, or that does not exist any more.
const TEXTS_OF_A_LOST_TRANSACTION: [&str; 3] =
    ["cannot start a transaction within", "no transaction is active", "no such savepoint"];

pub(super) static RESULT_CODES: &[Rule] = &[
    rule("513", "ERROR_RETRY: the statement is to be prepared again", CONTENTION),
    rule("769", "ERROR_SNAPSHOT: the snapshot is too old", CONTENTION),
    rule("1", "ERROR: no such table or column, or a wrong statement", SCHEMA),
    rule("2", "INTERNAL: an internal error", MAY_HAVE_ROLLED_BACK),
    rule("3", "PERM: no right to the file", DEPLOYMENT),
    rule("4", "ABORT: the transaction was rolled back apart from the statement", CONTENTION.closing()),
    rule("5", "BUSY: another writer has the file", CONTENTION),
    rule("6", "LOCKED: another statement has the table", CONTENTION),
    rule("7", "NOMEM: no memory", MAY_HAVE_ROLLED_BACK),
    rule("8", "READONLY: the file cannot be written, was moved or was removed", TRANSIENT.closing()),
    rule("9", "INTERRUPT: the statement was interrupted", MAY_HAVE_ROLLED_BACK),
    rule("10", "IOERR: the disk or the file system failed", MAY_HAVE_ROLLED_BACK),
    rule("11", "CORRUPT: the file is damaged", MAY_HAVE_ROLLED_BACK),
    rule("12", "NOTFOUND: an operation that the file system does not know", SCHEMA),
    rule("13", "FULL: no disk", MAY_HAVE_ROLLED_BACK),
    rule("14", "CANTOPEN: the file cannot be opened", TRANSIENT.closing()),
    rule("15", "PROTOCOL: a race for the log's locks", CONTENTION),
    rule("16", "EMPTY: not used", TRANSIENT),
    rule("17", "SCHEMA: the schema changed", CONTENTION),
    rule("18", "TOOBIG: a text or blob is too large", DATA),
    rule("19", "CONSTRAINT: a constraint is violated, or a trigger raised an error", DATA),
    rule("20", "MISMATCH: the value's type does not fit", DATA),
    rule("21", "MISUSE: the driver called the library wrongly", TRANSIENT.closing()),
    rule("22", "NOLFS: the file system does not take files so large", TRANSIENT),
    rule("23", "AUTH: the statement is not allowed", SCHEMA),
    rule("24", "FORMAT: not used", TRANSIENT),
    rule("25", "RANGE: a parameter that the statement does not have", SCHEMA),
    rule("26", "NOTADB: the file is no database", DEPLOYMENT),
    rule("27", "NOTICE: no error", TRANSIENT),
    rule("28", "WARNING: no error", TRANSIENT),
    rule("100", "ROW: no error", TRANSIENT),
    rule("101", "DONE: no error", TRANSIENT),
];

/// Returns whether a code is READONLY, or an extended one of it.
pub(super) fn is_read_only(code: &str) -> bool {
    const READONLY: u32 = 8;
    code.parse::<u32>().is_ok_and(|code| code & 0xff == READONLY)
}

/// Returns the ruling about an extended result code and the text of SQLite with it. SQLite never translates this text.
pub(super) fn of_result_code(code: u32, text: &str) -> Ruling {
    const ERROR: u32 = 1;
    let says = |texts: &[&str]| texts.iter().any(|known| text.contains(known));
    match code {
        ERROR if says(&TEXTS_OF_DATA) => return DATA,
        ERROR if says(&TEXTS_OF_A_LOST_TRANSACTION) => return SCHEMA.closing(),
        _ => {}
    }
    let find = |code: u32| RESULT_CODES.iter().find(|rule| rule.code.parse() == Ok(code));
    find(code).or_else(|| find(code & 0xff)).map_or(SCHEMA, |rule| rule.ruling)
}

#[cfg(test)]
mod tests {
    use super::super::ruling::{Blame, Class};
    use super::*;

    #[test]
    fn each_code_has_its_class() {
        let of = |code| {
            let Ruling { class, blame, closes, .. } = of_result_code(code, "");
            (class, blame, closes)
        };
        // With BUSY_SNAPSHOT and LOCKED_SHAREDCACHE.
        for code in [5, 517, 6, 262, 15, 17, 513, 769] {
            assert_eq!(of(code), (Class::Contention, Blame::Environment, false), "{code}");
        }
        assert_eq!(of(516), (Class::Contention, Blame::Environment, true), "ABORT_ROLLBACK");
        // With READONLY_DBMOVED, IOERR_WRITE, CORRUPT_INDEX and CANTOPEN_ISDIR.
        for code in [7, 8, 1032, 9, 10, 778, 11, 779, 13, 14, 526] {
            assert_eq!(of(code), (Class::Transient, Blame::Environment, true), "{code}");
        }
        // With CONSTRAINT_UNIQUE and CONSTRAINT_TRIGGER.
        for code in [18, 19, 2067, 1811, 20] {
            assert_eq!(of(code), (Class::Permanent, Blame::Event, false), "{code}");
        }
        for code in [1, 23, 279] {
            assert_eq!(of(code), (Class::Permanent, Blame::Code, false), "{code}");
        }
    }

    #[test]
    fn the_text_of_the_general_code_is_read() {
        assert_eq!(of_result_code(1, "malformed JSON"), DATA);
        assert_eq!(of_result_code(1, "no such table: seats"), SCHEMA);
        assert_eq!(of_result_code(1, "cannot start a transaction within a transaction"), SCHEMA.closing());
    }
}
