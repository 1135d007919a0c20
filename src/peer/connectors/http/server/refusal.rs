//! What a request gets that had no success.

use http::StatusCode;

use super::answer::Answer;
use super::config::{HttpMode, Settings};
use crate::error::{Error, Misuse};
use crate::peer::{PeerError, Received};

/// Returns the answer to a request whose events were received; `None` when it goes on to wait.
pub(super) fn of_received(received: Received, settings: &Settings) -> Option<Answer> {
    let is_accepted = settings.config.mode == HttpMode::Accept;
    match (received.events, received.errors) {
        (0, 0) if settings.no_events == StatusCode::NO_CONTENT => Some(Answer::say(StatusCode::NO_CONTENT, "")),
        (0, 0) => Some(Answer::say(settings.no_events, "the body has no event")),
        (0, errors) => Some(Answer::say(
            StatusCode::BAD_REQUEST,
            &format!("the body could not be read as an event: {errors} parts of it were refused"),
        )),
        _ if is_accepted => Some(Answer::say(StatusCode::ACCEPTED, "")),
        (events, _) if received.duplicates >= events => Some(Answer::say(
            StatusCode::CONFLICT,
            "this request was taken before, and its answer is not here: ask for its result in another way",
        )),
        _ => None,
    }
}

/// Returns the answer to a request whose events were not taken.
pub(super) fn of_error(error: &PeerError) -> Answer {
    match error {
        PeerError::Framing { source, .. } => {
            Answer::say(StatusCode::BAD_REQUEST, &format!("the body could not be read: {source}"))
        }
        PeerError::Mapping { .. } => {
            Answer::say(StatusCode::UNPROCESSABLE_ENTITY, "the request names no recipient that there is")
        }
        PeerError::Store { source: Error::Misuse { misuse, .. }, .. } => of_misuse(misuse),
        PeerError::Stopped { .. } => Answer::stopping(),
        PeerError::TooMany { .. } => {
            Answer::say(StatusCode::TOO_MANY_REQUESTS, "too many requests at a time").try_again()
        }
        error if error.is_transient() => {
            Answer::say(StatusCode::SERVICE_UNAVAILABLE, "the events cannot be stored now").try_again()
        }
        _ => Answer::say(StatusCode::INTERNAL_SERVER_ERROR, "the events could not be stored"),
    }
}

fn of_misuse(misuse: &Misuse) -> Answer {
    match misuse {
        Misuse::Stopped { .. } => Answer::stopping(),
        Misuse::TooLong { .. } => {
            Answer::say(StatusCode::PAYLOAD_TOO_LARGE, &format!("the event is refused: {misuse}"))
        }
        misuse => Answer::say(StatusCode::UNPROCESSABLE_ENTITY, &format!("the event is refused: {misuse}")),
    }
}
