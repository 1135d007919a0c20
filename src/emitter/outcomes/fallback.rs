//! A second attempt by the unary call, for messages whose batch failed for a transient reason.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::chip::answer::outcome::{RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::queue::SendOutcome;
use crate::chip::client::request::Requests;
use crate::emitter::context::Context;
use crate::emitter::outcomes::Outcomes;
use crate::emitter::outcomes::in_flight::Delivery;

/// Most second attempts at the same time. A message that finds none free waits for its next attempt.
pub const MAX_FALLBACKS: usize = 16;

/// Sends messages once more, each in a request of its own.
pub(crate) struct Fallback {
    context: Arc<Context>,
    requests: Arc<Requests>,
    outcomes: Arc<Outcomes>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Fallback {
    pub(crate) fn new(context: Arc<Context>, requests: Arc<Requests>, outcomes: Arc<Outcomes>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(MAX_FALLBACKS));
        Arc::new(Fallback { context, requests, outcomes, slots, tasks: TaskTracker::new() })
    }

    /// Takes the answer for a message, after a second attempt if the message may have one.
    pub(crate) fn take(self: &Arc<Self>, delivery: Delivery, mut sent: SendOutcome, send_before: Instant) {
        let transient = matches!(&sent.result, Err(error) if may_help(error, sent.alone));
        let slot =
            if transient && Instant::now() < send_before { self.slots.clone().try_acquire_owned().ok() } else { None };
        let Some((slot, event)) = slot.and_then(|slot| Some((slot, sent.event.take()?))) else {
            return self.outcomes.take(delivery, &sent);
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.context.metrics.fallbacks_in_flight(1.0);
            let (event, result) = this.requests.send_alone(event).await;
            this.context.metrics.published_alone(result.is_err());
            // A message without a second attempt keeps the outcome of its batch.
            if !matches!(result, Err(SendError::CircuitOpen | SendError::Shutdown)) {
                (sent.result, sent.alone) = (result, true);
            }
            sent.event = Some(event);
            this.outcomes.take(delivery, &sent);
            this.context.metrics.fallbacks_in_flight(-1.0);
            drop(slot);
        });
    }

    /// Waits for the second attempts under way. Returns whether they ended before `deadline`.
    pub(crate) async fn stop(&self, deadline: Instant) -> bool {
        self.tasks.close();
        timeout_at(deadline, self.tasks.wait()).await.is_ok()
    }
}

/// Returns whether another request may help now. It may not after a deadline, because the server may still work on the
/// message, nor when the server asks for fewer requests.
fn may_help(error: &SendError, alone: bool) -> bool {
    error.class(alone) == RetryClass::Transient
        && !matches!(error.refusal(), Refusal::Slow | Refusal::SizeOrRate)
        && error.retry_after().is_none()
}
