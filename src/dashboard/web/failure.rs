//! Requests that end with an error: a status, and a sentence about what was attempted.

use axum::http::StatusCode;

use crate::error::Error;
use crate::text::Chain;

/// An answer other than the page that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Status of the answer.
    pub(crate) status: StatusCode,
    /// Headline of the page.
    pub(crate) headline: &'static str,
    /// What was attempted, and what went wrong.
    pub(crate) text: String,
    /// What to do.
    pub(crate) advice: &'static str,
}

impl Failure {
    /// A query or a form that cannot be understood.
    pub(crate) fn bad_input(text: impl Into<String>) -> Self {
        let advice = "Go back and correct the input.";
        Failure { status: StatusCode::BAD_REQUEST, headline: "This input is not valid", text: text.into(), advice }
    }

    /// A request that is understood and refused.
    pub(crate) fn refused(text: impl Into<String>, advice: &'static str) -> Self {
        Failure { status: StatusCode::FORBIDDEN, headline: "Refused", text: text.into(), advice }
    }

    /// A request of a person whom the dashboard does not know.
    pub(crate) fn unknown_person(text: impl Into<String>, advice: &'static str) -> Self {
        Failure { status: StatusCode::UNAUTHORIZED, headline: "Log in", text: text.into(), advice }
    }

    /// A page that does not exist.
    pub(crate) fn no_such_page() -> Self {
        Failure {
            status: StatusCode::NOT_FOUND,
            headline: "There is no such page",
            text: "The address names no page of the dashboard.".to_owned(),
            advice: "Choose a page from the navigation.",
        }
    }

    /// Something that was there when the link to it was made.
    pub(crate) fn gone(text: impl Into<String>) -> Self {
        let advice = "It may have been processed, replayed or deleted since. Load the list again.";
        Failure { status: StatusCode::NOT_FOUND, headline: "It is not there any more", text: text.into(), advice }
    }

    /// An error of a question or a repair.
    pub(crate) fn of(error: &Error) -> Self {
        let (status, headline, advice) = match error {
            Error::Misuse { .. } => return Failure::bad_input(Chain(error).to_string()),
            Error::Contention { .. } | Error::Stale { .. } | Error::Paused { .. } | Error::RevisionConflict { .. } => {
                (StatusCode::CONFLICT, "Nothing was changed", "Load the page again, look, and then try again.")
            }
            Error::Unknown { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The outcome is unknown",
                "Look whether the change was made before you try again.",
            ),
            error if error.is_transient() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The database does not answer",
                "Nothing was changed. Look whether the database runs, and load the page again.",
            ),
            _ => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The database refused",
                "Look at the page Doctor: it names what is wrong with the database.",
            ),
        };
        let text = Chain(error).to_string();
        if status.is_server_error() {
            tracing::warn!(error = text, "the dashboard could not answer");
        }
        Failure { status, headline, text, advice }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Misuse;

    #[test]
    fn errors_have_the_status_of_their_cause() {
        let away = Error::Transient { attempt: "list".to_owned(), source: "connection refused".into() };
        let failure = Failure::from(away);
        assert_eq!(failure.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failure.text, "list: the database is not available: connection refused");
        assert_eq!(Failure::from(Error::contention("pause")).status, StatusCode::CONFLICT);
        assert_eq!(Failure::from(Error::setup("check", "not migrated")).status, StatusCode::INTERNAL_SERVER_ERROR);
        let misuse = Error::misuse("purge", Misuse::Empty { what: "reason" });
        assert_eq!(Failure::from(misuse).status, StatusCode::BAD_REQUEST);
    }
}
