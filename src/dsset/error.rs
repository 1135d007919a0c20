//! Errors of a set.

use std::fmt;
use std::time::Duration;

use crate::error::BoxError;
use crate::store::{Class, Fault};

/// Why an operation on a set did not succeed.
///
/// [`is_transient`](Error::is_transient) tells what trying again can help from what is a mistake of the caller. Nothing was changed, except
/// after [`Unknown`](Error::Unknown). After any error inside a transaction, roll it back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The listing is older than the tombstone delay, by the database's clock: list again.
    #[error("{attempt}: the listing is stale ({age:?} old, over the tombstone delay of {delay:?}): list again")]
    Stale {
        /// The attempt, with the recipient.
        attempt: String,
        /// Age of the listing.
        age: Duration,
        /// Largest age of a listing.
        delay: Duration,
    },
    /// Another writer of the same recipient came first: roll back, list again and try again.
    #[error("{attempt}: another writer came first")]
    Contention {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database, if the database failed.
        source: Option<BoxError>,
    },
    /// The database could not be reached or is too busy.
    #[error("{attempt}: the database is not available")]
    Transient {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database or the network.
        source: BoxError,
    },
    /// The connection was lost during a commit, so whether it happened is not known: list again to see.
    #[error("{attempt}: the connection was lost during the commit, so the outcome is unknown")]
    Unknown {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error that ended the connection.
        source: BoxError,
    },
    /// The call itself is wrong; trying again does not help.
    #[error("{attempt}: {misuse}")]
    Misuse {
        /// The attempt, with the recipient.
        attempt: String,
        /// The problem.
        misuse: Misuse,
    },
    /// The database refused a statement; trying again does not help.
    #[error("{attempt}: the database refused")]
    Database {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database.
        source: BoxError,
    },
}

/// Misuse of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// A limit on ids, values or their number.
    #[error(transparent)]
    Limit(crate::error::Misuse),
    /// The caller's own statements undid what was popped, ended the transaction, or left it failed.
    #[error(
        "the transaction was ended, or failed, or what was popped in it was undone: return the errors of statements, and use savepoints \
         only before finish_pop"
    )]
    Undone,
    /// A listing of another set.
    #[error("the listing is of {listed}: list this set")]
    ForeignListing {
        /// The recipient that was listed.
        listed: String,
    },
    /// An operation that was begun in another transaction than the one it is finished in.
    #[error("the operation was begun in another transaction: finish it in its own")]
    OtherTransaction,
    /// Two operations of one transaction that popped the same item.
    #[error("item {id:?} was popped by two operations of this transaction")]
    PoppedTwice {
        /// The item.
        id: String,
    },
    /// A commit after an operation that failed to finish.
    #[error("an operation of this transaction failed to finish, so it was rolled back")]
    NotFinished,
}

impl Error {
    /// True when another writer came first.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        matches!(self, Error::Contention { .. })
    }

    /// True when trying again may help: contention, a stale listing (list again), or a database that is not available.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Contention { .. } | Error::Transient { .. } | Error::Stale { .. })
    }

    pub(super) fn misuse(attempt: impl fmt::Display, misuse: Misuse) -> Self {
        Error::Misuse { attempt: attempt.to_string(), misuse }
    }

    pub(super) fn limit(attempt: impl fmt::Display, misuse: crate::error::Misuse) -> Self {
        Error::misuse(attempt, Misuse::Limit(misuse))
    }

    pub(super) fn contention(attempt: impl fmt::Display) -> Self {
        Error::Contention { attempt: attempt.to_string(), source: None }
    }

    pub(super) fn during(fault: Fault, attempt: impl fmt::Display) -> Self {
        let attempt = attempt.to_string();
        match fault.class() {
            Class::Contention => Error::Contention { attempt, source: Some(fault.0.into()) },
            Class::Transient => Error::Transient { attempt, source: fault.0.into() },
            Class::Permanent => Error::Database { attempt, source: fault.0.into() },
        }
    }

    pub(super) fn during_commit(fault: Fault, attempt: impl fmt::Display) -> Self {
        if fault.lost_the_answer() {
            return Error::Unknown { attempt: attempt.to_string(), source: fault.0.into() };
        }
        Error::during(fault, attempt)
    }
}
