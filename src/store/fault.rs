//! What went wrong in the database, in the classes that callers act on. SQLSTATEs and SQLite codes are known only here.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::error::{BoxError, Error};

/// An error of a statement, before it is known what was attempted with it.
#[derive(Debug)]
pub struct Fault(pub(crate) sqlx::Error);

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Read anew and try again.
    Contention,
    /// The database is away or too busy: try again later.
    Transient,
    /// Trying again does not help.
    Permanent,
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Fault(error)
    }
}

impl Fault {
    pub(crate) fn class(&self) -> Class {
        classify(&self.0)
    }

    /// True when the connection broke, so that the server may have done what was asked without our hearing of it.
    pub(crate) fn lost_the_answer(&self) -> bool {
        if let Some(shared) = shared_in(&self.0) {
            return shared.lost_the_answer;
        }
        matches!(self.0, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed)
            || code_of(&self.0).is_some_and(|code| code.starts_with("57P0") || code.starts_with("08"))
    }

    /// The error of the crate's front door, once it is known what was attempted.
    pub(crate) fn during(self, attempt: impl fmt::Display) -> Error {
        let attempt = attempt.to_string();
        match self.class() {
            Class::Contention => Error::Contention { attempt, source: Some(self.0.into()) },
            Class::Transient => Error::Transient { attempt, source: self.0.into() },
            Class::Permanent => Error::Database { attempt, source: self.0.into() },
        }
    }

    /// The same for a statement that commits by itself and must not be repeated: a lost answer is unknown.
    pub(crate) fn during_commit(self, attempt: impl fmt::Display) -> Error {
        if self.lost_the_answer() {
            return Error::Unknown { attempt: attempt.to_string(), source: self.0.into() };
        }
        self.during(attempt)
    }
}

/// An error of a statement that several callers hear of.
#[derive(Debug, Clone)]
pub(crate) struct SharedFault {
    class: Class,
    lost_the_answer: bool,
    source: Arc<sqlx::Error>,
}

impl Fault {
    pub(crate) fn shared(self) -> SharedFault {
        SharedFault { class: self.class(), lost_the_answer: self.lost_the_answer(), source: Arc::new(self.0) }
    }
}

impl SharedFault {
    /// One that no engine has told.
    #[cfg(feature = "sqlite")]
    pub(crate) fn new(class: Class, text: &'static str) -> Self {
        SharedFault { class, lost_the_answer: false, source: Arc::new(sqlx::Error::AnyDriverError(text.into())) }
    }

    /// As [`Fault::lost_the_answer`].
    #[cfg(feature = "sqlite")]
    pub(crate) fn lost_the_answer(&self) -> bool {
        self.lost_the_answer
    }

    /// As [`Fault::during_commit`]; `lost` when the answer of an earlier attempt was lost.
    pub(crate) fn during_commit(&self, attempt: String, lost: bool) -> Error {
        let source = BoxError::from(Arc::clone(&self.source));
        match self.class {
            _ if lost || self.lost_the_answer => Error::Unknown { attempt, source },
            Class::Contention => Error::Contention { attempt, source: Some(source) },
            Class::Transient => Error::Transient { attempt, source },
            Class::Permanent => Error::Database { attempt, source },
        }
    }
}

/// One of the callers' own again, of the same class.
impl From<SharedFault> for Fault {
    fn from(shared: SharedFault) -> Self {
        Fault(sqlx::Error::AnyDriverError(Box::new(shared)))
    }
}

impl fmt::Display for SharedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for SharedFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

fn shared_in(error: &sqlx::Error) -> Option<&SharedFault> {
    match error {
        sqlx::Error::AnyDriverError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// The class of a user's error: that of the first database or eventbox error in its chain.
pub(crate) fn class_of(error: &BoxError) -> Class {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error.as_ref());
    while let Some(current) = next {
        if let Some(database) = current.downcast_ref::<sqlx::Error>() {
            return classify(database);
        }
        match current.downcast_ref::<Error>() {
            Some(Error::Contention { .. }) => return Class::Contention,
            Some(Error::Transient { .. }) => return Class::Transient,
            // An I/O error does not name the error that it wraps as its source.
            _ => match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(wrapped) => next = Some(wrapped),
                None => next = current.source(),
            },
        }
    }
    Class::Permanent
}

fn classify(error: &sqlx::Error) -> Class {
    if let Some(shared) = shared_in(error) {
        return shared.class;
    }
    match error {
        sqlx::Error::Database(database) => database.code().map_or(Class::Permanent, |code| classify_code(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Class::Transient,
        _ => Class::Permanent,
    }
}

/// Five characters are an SQLSTATE; digits alone are an extended result code of SQLite, whose low byte is the primary code.
fn classify_code(code: &str) -> Class {
    const SQLITE_BUSY: u32 = 5;
    const SQLITE_LOCKED: u32 = 6;
    const SQLITE_IOERR: u32 = 10;
    const SQLITE_FULL: u32 = 13;
    if code.len() == 5 {
        return match code {
            "40001" | "40P01" | "55P03" => Class::Contention,
            // Connection trouble, too many connections, shutdown, out of memory or disk.
            _ if ["08", "53", "57P0"].iter().any(|class| code.starts_with(class)) => Class::Transient,
            _ => Class::Permanent,
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(SQLITE_BUSY | SQLITE_LOCKED) => Class::Contention,
        Ok(SQLITE_IOERR | SQLITE_FULL) => Class::Transient,
        _ => Class::Permanent,
    }
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|database| database.code()).map(|code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for code in ["40001", "40P01", "55P03", "5", "517", "6"] {
            assert_eq!(classify_code(code), Class::Contention, "{code}");
        }
        for code in ["08006", "53300", "57P01", "10", "13"] {
            assert_eq!(classify_code(code), Class::Transient, "{code}");
        }
        for code in ["23505", "42P01", "1", "19"] {
            assert_eq!(classify_code(code), Class::Permanent, "{code}");
        }
    }

    #[test]
    fn a_user_error_is_as_its_cause() {
        let cause = Error::contention("x");
        assert_eq!(class_of(&cause.into()), Class::Contention);
        let wrapped = std::io::Error::other(sqlx::Error::PoolTimedOut);
        assert_eq!(class_of(&wrapped.into()), Class::Transient);
        assert_eq!(class_of(&"plain".into()), Class::Permanent);
    }
}
