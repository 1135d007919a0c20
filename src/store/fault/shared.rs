//! An error that several callers of a statement get, or whose context says more than the error itself.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::Fault;
#[cfg(feature = "sqlite")]
use super::ruling::{CONTENTION, TRANSIENT};
use super::ruling::{Class, Ruling};
use super::ruling_of;
use crate::error::{BoxError, Error};

/// An error that several callers of a statement get.
#[derive(Debug, Clone)]
pub(crate) struct SharedFault {
    ruling: Ruling,
    lost_the_answer: bool,
    source: Arc<sqlx::Error>,
}

impl SharedFault {
    pub(super) fn of(fault: Fault) -> Self {
        let (ruling, lost_the_answer) = (ruling_of(&fault.0), fault.lost_the_answer());
        SharedFault { ruling, lost_the_answer, source: Arc::new(fault.0) }
    }

    /// Makes a fault that came before any statement.
    pub(super) fn of_no_statement(fault: Fault) -> Self {
        SharedFault { lost_the_answer: false, ..SharedFault::of(fault) }
    }

    /// Makes a fault that came from no engine.
    #[cfg(feature = "sqlite")]
    pub(crate) fn new(class: Class, text: &'static str) -> Self {
        let ruling = Ruling { class, ..if class == Class::Contention { CONTENTION } else { TRANSIENT } };
        SharedFault { ruling, lost_the_answer: false, source: Arc::new(sqlx::Error::AnyDriverError(text.into())) }
    }

    /// As [`Fault::lost_the_answer`].
    pub(crate) fn lost_the_answer(&self) -> bool {
        self.lost_the_answer
    }

    /// Returns the error of the driver.
    pub(super) fn source_error(&self) -> &sqlx::Error {
        &self.source
    }

    pub(super) fn ruling(&self) -> Ruling {
        self.ruling
    }

    /// As [`Fault::during_commit`]; `lost` when the answer of an earlier attempt was lost.
    pub(crate) fn during_commit(&self, attempt: String, lost: bool) -> Error {
        let source = BoxError::from(Arc::clone(&self.source));
        match self.ruling.class {
            _ if lost || self.lost_the_answer => Error::Unknown { attempt, source },
            Class::Contention => Error::Contention { attempt, source: Some(source) },
            Class::Transient => Error::Transient { attempt, source },
            Class::Permanent => Error::Database { attempt, source },
        }
    }
}

/// Returns the error of one caller, with the same class.
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

pub(super) fn shared_in(error: &sqlx::Error) -> Option<&SharedFault> {
    match error {
        sqlx::Error::AnyDriverError(error) => error.downcast_ref(),
        _ => None,
    }
}
