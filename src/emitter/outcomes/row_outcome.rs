//! The next step for a row whose message has an answer.

use std::time::Duration;

use crate::chip::answer::outcome::{RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::emitter::outcomes::{Delivery, Settling};

/// The code of a dead letter that was tried as often as [`Config::max_attempts`](crate::emitter::Config::max_attempts) allows.
pub const ATTEMPTS_CODE: &str = "ATTEMPTS_EXHAUSTED";

/// The most bytes of an error that a row keeps.
const MAX_ERROR_BYTES: usize = 1024;

/// Next step for a row.
pub(crate) enum Fate {
    Delivered,
    Retry { code: String, error: String, delay: Duration },
    Dead { code: String, reason: String },
}

impl Settling {
    /// Returns the next step for a row; `None` leaves the row as it is.
    pub(crate) fn fate_of(&self, error: Option<&SendError>, alone: bool, attempts: i32) -> Option<Fate> {
        let Some(error) = error else { return Some(Fate::Delivered) };
        let (class, code) = (error.class(alone), error.dead_letter_code().into_owned());
        let backoff = match class {
            RetryClass::NotTried => return None,
            RetryClass::Permanent => return Some(Fate::Dead { code, reason: shortened(&error.to_string()) }),
            RetryClass::SlowTransient => self.config.slow_backoff,
            RetryClass::Transient | RetryClass::Endpoint => self.config.backoff,
        };
        if self.config.max_attempts.is_some_and(|most| i64::from(attempts) >= i64::from(most.get())) {
            let reason = shortened(&format!("{attempts} attempts, the last: {code}: {error}"));
            return Some(Fate::Dead { code: ATTEMPTS_CODE.to_owned(), reason });
        }
        let delay = backoff.after(attempts).max(error.retry_after().unwrap_or_default());
        Some(Fate::Retry { code, error: shortened(&error.to_string()), delay })
    }

    /// Remembers for the health report what is refused for its own sake.
    pub(crate) fn note_struggle(&self, delivery: &Delivery, fate: &Fate, error: Option<&SendError>, alone: bool) {
        match fate {
            Fate::Delivered | Fate::Dead { .. } => self.struggling.forget(delivery.key()),
            Fate::Retry { code, delay, .. } => {
                let own = match error {
                    Some(SendError::Event { .. }) => true,
                    Some(error) => {
                        alone && !matches!(error.refusal(), Refusal::NotMade | Refusal::Slow | Refusal::Destination)
                    }
                    None => false,
                };
                if own {
                    self.struggling.note(delivery.key(), delivery.attempts(), code, *delay);
                }
            }
        }
    }
}

/// Cuts a text to the limit of a column, and replaces NUL.
fn shortened(text: &str) -> String {
    let end =
        text.char_indices().map(|(start, c)| start + c.len_utf8()).take_while(|end| *end <= MAX_ERROR_BYTES).last();
    text.get(..end.unwrap_or(0)).unwrap_or_default().replace('\0', "\u{fffd}")
}
