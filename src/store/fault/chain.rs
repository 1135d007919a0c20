//! The errors of the user's code. Their cause may be an error of the database, at any depth.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;

use super::ruling::{Blame, CONTENTION, Class, HINDERED, Ruling, SCHEMA, TRANSIENT};
use super::{ruling_of, ruling_of_database};
use crate::error::{Error, Outage, StateError, UnknownEvent};

/// Returns the class of an error of the user's code: the class of the first database or eventbox error in its chain.
pub(crate) fn class_of(error: &(dyn StdError + 'static)) -> Class {
    ruling_in(error).map_or(Class::Permanent, |ruling| ruling.class)
}

/// Returns the blame of an error of the user's code: the blame of the first database or eventbox error in its chain. An
/// error without a database error is the event's fault.
pub(crate) fn blame_of(error: &(dyn StdError + 'static)) -> Blame {
    ruling_in(error).map_or(Blame::Event, |ruling| ruling.blame)
}

/// Returns whether the environment failed one statement only, so that others may work meanwhile.
pub(crate) fn is_of_one_statement(error: &(dyn StdError + 'static)) -> bool {
    ruling_in(error).is_some_and(|ruling| ruling.is_of_one_statement)
}

/// Returns when the user's code wants another attempt.
pub(crate) fn retry_after(error: &(dyn StdError + 'static)) -> Option<Duration> {
    links(error).find_map(pointed::<Outage>).map(|outage| outage.retry_after)
}

/// Returns whether the connection must be closed after this error of the user's code.
pub(crate) fn leaves_unfit(error: &(dyn StdError + 'static)) -> bool {
    rulings(error).any(|ruling| ruling.closes)
}

/// Returns what the user's code says about its own error. This counts before any error of a database.
fn ruling_in(error: &(dyn StdError + 'static)) -> Option<Ruling> {
    let is_excuse =
        |link: &(dyn StdError + 'static)| pointed::<Outage>(link).is_some() || pointed::<UnknownEvent>(link).is_some();
    if links(error).any(is_excuse) { Some(HINDERED) } else { rulings(error).next() }
}

fn rulings<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = Ruling> + 'a {
    links(error).filter_map(ruling_of_link)
}

/// Returns an error and its causes.
fn links<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |current| cause_of(*current))
}

fn cause_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // An I/O error does not name the error that it wraps as its source.
    match pointed::<io::Error>(error).and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Finds an error of a type, also behind a pointer: a pointer passes on the source of its error, and not the error
/// itself.
fn pointed<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let boxed = || error.downcast_ref::<Box<E>>().map(AsRef::as_ref);
    let shared = || error.downcast_ref::<Arc<E>>().map(AsRef::as_ref);
    error.downcast_ref().or_else(boxed).or_else(shared)
}

fn ruling_of_link(error: &(dyn StdError + 'static)) -> Option<Ruling> {
    if let Some(error) = pointed::<sqlx::Error>(error) {
        return Some(ruling_of(error));
    }
    if let Some(error) = error.downcast_ref::<Box<dyn DatabaseError>>() {
        return Some(ruling_of_database(error.as_ref()));
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = pointed::<sqlx::postgres::PgDatabaseError>(error) {
        return Some(ruling_of_database(error));
    }
    #[cfg(feature = "sqlite")]
    if let Some(error) = pointed::<sqlx::sqlite::SqliteError>(error) {
        return Some(ruling_of_database(error));
    }
    if let Some(StateError::Decode { .. }) = pointed(error) {
        // No event is to blame for data that was stored before.
        return Some(SCHEMA);
    }
    match pointed::<Error>(error) {
        Some(Error::Contention { source: None, .. }) => Some(CONTENTION),
        // The recipient that does not keep up is another one.
        Some(Error::Full { .. }) => Some(HINDERED),
        // The cause is more exact.
        Some(_) => None,
        None => by_text(&error.to_string()),
    }
}

/// Some wrappers hide the type of their error, and pass on only its text and its source. These texts are the driver's,
/// of errors without a source.
fn by_text(text: &str) -> Option<Ruling> {
    const BROKEN: [&str; 3] = [
        "error communicating with database: ",
        "encountered unexpected or invalid data: ",
        "error occurred while attempting to establish a TLS connection: ",
    ];
    const AWAY: [&str; 2] =
        ["pool timed out while waiting for an open connection", "attempted to acquire a connection on a closed pool"];
    const CRASHED: &str = "attempted to communicate with a crashed background worker";
    match text {
        _ if AWAY.contains(&text) => Some(TRANSIENT),
        _ if text == CRASHED || BROKEN.iter().any(|start| text.starts_with(start)) => Some(TRANSIENT.closing()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::error::BoxError;

    /// A wrapper that hides the type of its error, as the wrappers of `anyhow` do.
    #[derive(Debug)]
    struct Hiding(BoxError);

    impl fmt::Display for Hiding {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl StdError for Hiding {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.0.source()
        }
    }

    fn verdict(error: impl Into<BoxError>) -> (Class, Blame, bool) {
        let error = error.into();
        (class_of(&*error), blame_of(&*error), leaves_unfit(&*error))
    }

    #[test]
    fn a_user_error_is_as_its_cause() {
        let environment = |class, closes| (class, Blame::Environment, closes);
        assert_eq!(verdict(Error::contention("x")), environment(Class::Contention, false));
        let full = Error::Full { attempt: "x".to_owned(), max_waiting: 1, oldest_age: Duration::ZERO };
        assert_eq!(verdict(full), environment(Class::Transient, false));
        assert_eq!(verdict(io::Error::other(sqlx::Error::PoolTimedOut)), environment(Class::Transient, false));
        assert_eq!(verdict(Arc::new(sqlx::Error::WorkerCrashed)), environment(Class::Transient, true));
        assert_eq!(verdict(Box::new(sqlx::Error::PoolClosed)), environment(Class::Transient, false));
        assert_eq!(verdict("plain"), (Class::Permanent, Blame::Event, false));
        assert_eq!(verdict(io::Error::from(io::ErrorKind::NotFound)), (Class::Permanent, Blame::Event, false));
        assert_eq!(verdict(sqlx::Error::ColumnNotFound("x".into())), (Class::Permanent, Blame::Code, false));
    }

    #[test]
    fn an_error_that_hides_its_cause_is_known_by_its_text() {
        let io = || io::Error::from(io::ErrorKind::ConnectionReset);
        for error in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
            sqlx::Error::Io(io()),
            sqlx::Error::Protocol("x".to_owned()),
            sqlx::Error::Tls("x".into()),
        ] {
            let wanted = verdict(io::Error::other(BoxError::from(Hiding(BoxError::from(Hiding("x".into()))))));
            assert_eq!(wanted, (Class::Permanent, Blame::Event, false));
            let (closes, text) = (ruling_of(&error).closes, error.to_string());
            assert_eq!(verdict(Hiding(error.into())), (Class::Transient, Blame::Environment, closes), "{text}");
        }
    }
}
