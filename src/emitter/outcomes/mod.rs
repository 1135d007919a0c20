//! Turns the answer for a message into the outcome of its row: delivered, retried later, or a dead letter.

pub(crate) mod fallback;
pub(crate) mod in_flight;
pub(crate) mod struggling;
pub(crate) mod unsettled;
pub(crate) mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::chip::answer::outcome::{RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::queue::SendOutcome;
use crate::emitter::context::{Context, guarded};
use crate::emitter::metrics::SendPhase;
use crate::emitter::outcomes::in_flight::Delivery;
use crate::emitter::outcomes::struggling::Struggling;
use crate::emitter::outcomes::writer::OutcomeQueue;
use crate::text::fit;

/// Code of a dead letter whose message had all attempts that
/// [`Config::max_attempts`](crate::emitter::Config::max_attempts) allows.
pub const ATTEMPTS_CODE: &str = "ATTEMPTS_EXHAUSTED";

/// Most bytes of an error text that a row keeps.
const MAX_ERROR_BYTES: usize = 1024;

/// Outcome of a row.
pub(crate) enum RowOutcome {
    Delivered,
    Retry { code: String, error: String, delay: Duration },
    Dead { code: String, reason: String },
}

/// Decides the outcomes of rows.
pub(crate) struct Outcomes {
    context: Arc<Context>,
    queue: Arc<OutcomeQueue>,
    pub(crate) struggling: Struggling,
}

impl Outcomes {
    pub(crate) fn new(context: Arc<Context>, queue: Arc<OutcomeQueue>) -> Self {
        Outcomes { context, queue, struggling: Struggling::default() }
    }

    /// Takes the answer for a message, and queues the outcome of its row. Without an attempt the row stays as it is.
    pub(crate) fn take(&self, delivery: Delivery, sent: &SendOutcome) {
        let context = &self.context;
        let error = sent.result.as_ref().err();
        let hook = context.config.hooks.on_batch_publish.as_deref();
        guarded("on_batch_publish", || hook.map(|hook| hook(sent.elapsed, 1, error)));
        context.metrics.published(delivery.phase, &delivery.pair, error.is_some(), sent.elapsed);
        context.counters.sent(delivery.phase == SendPhase::Retransmit, error);
        if let Some(outcome) = self.outcome(error, sent.alone, delivery.attempts) {
            self.note_struggle(&delivery, &outcome, error, sent.alone);
            self.queue.push(delivery, outcome);
        }
    }

    /// Makes a row that cannot be sent a dead letter.
    pub(crate) fn give_up(&self, delivery: Delivery, code: &str, reason: String) {
        self.queue.push(delivery, RowOutcome::Dead { code: code.to_owned(), reason });
    }

    /// Returns the outcome of a row; `None` leaves the row as it is.
    fn outcome(&self, error: Option<&SendError>, alone: bool, attempts: i32) -> Option<RowOutcome> {
        let Some(error) = error else { return Some(RowOutcome::Delivered) };
        let config = &self.context.config;
        let (class, code) = (error.class(alone), error.dead_letter_code().into_owned());
        let backoff = match class {
            RetryClass::NotTried => return None,
            RetryClass::Permanent => {
                return Some(RowOutcome::Dead { code, reason: fit(&error.to_string(), MAX_ERROR_BYTES) });
            }
            RetryClass::SlowTransient => config.slow_backoff,
            RetryClass::Transient | RetryClass::Endpoint => config.backoff,
        };
        if config.max_attempts.is_some_and(|most| i64::from(attempts) >= i64::from(most.get())) {
            let reason = fit(&format!("{attempts} attempts, the last: {code}: {error}"), MAX_ERROR_BYTES);
            return Some(RowOutcome::Dead { code: ATTEMPTS_CODE.to_owned(), reason });
        }
        let delay = backoff.after(attempts).max(error.retry_after().unwrap_or_default());
        Some(RowOutcome::Retry { code, error: fit(&error.to_string(), MAX_ERROR_BYTES), delay })
    }

    /// Remembers, for the health report, a message that the server refuses for its own sake.
    fn note_struggle(&self, delivery: &Delivery, outcome: &RowOutcome, error: Option<&SendError>, alone: bool) {
        match outcome {
            RowOutcome::Delivered | RowOutcome::Dead { .. } => self.struggling.forget(delivery.key),
            RowOutcome::Retry { code, delay, .. } => {
                let own = match error {
                    Some(SendError::Event { .. }) => true,
                    Some(error) => {
                        alone && !matches!(error.refusal(), Refusal::NotMade | Refusal::Slow | Refusal::Destination)
                    }
                    None => false,
                };
                if own {
                    self.struggling.note(delivery.key, delivery.attempts, code, *delay);
                }
            }
        }
    }
}
