//! A second chance by the unary call, for messages whose batch failed for a transient reason.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::chip::answer::outcome::{RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::batch::Sent;
use crate::chip::client::request::Sender;
use crate::emitter::outcomes::{Delivery, Settling};

/// Second chances at the same time; a message that finds none free waits for its next attempt.
pub const MAX_FALLBACKS: usize = 16;

/// Sends messages once more, one at a time each.
pub(crate) struct Fallback {
    sender: Arc<Sender>,
    settling: Arc<Settling>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Fallback {
    pub(crate) fn new(sender: Arc<Sender>, settling: Arc<Settling>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(MAX_FALLBACKS));
        Arc::new(Fallback { sender, settling, slots, tasks: TaskTracker::new() })
    }

    /// Settles a message, after a second chance if it should have one.
    pub(crate) fn settle(self: &Arc<Self>, delivery: Delivery, mut sent: Sent, send_before: Instant) {
        let transient = matches!(&sent.result, Err(error) if may_help(error, sent.alone));
        let slot =
            if transient && Instant::now() < send_before { self.slots.clone().try_acquire_owned().ok() } else { None };
        let Some((slot, mut event)) = slot.and_then(|slot| Some((slot, sent.event.take()?))) else {
            return self.settling.settle(delivery, &sent);
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.settling.metrics.fallbacks_in_flight(1.0);
            this.sender.stamp(&mut event);
            let (event, result) = this.sender.request_alone(event).await;
            this.settling.metrics.published_alone(result.is_err());
            // Messages that were not tried keep the outcome of the batch.
            if !matches!(result, Err(SendError::CircuitOpen | SendError::Shutdown)) {
                (sent.result, sent.alone) = (result, true);
            }
            sent.event = Some(event);
            this.settling.settle(delivery, &sent);
            this.settling.metrics.fallbacks_in_flight(-1.0);
            drop(slot);
        });
    }

    /// Waits for what is under way; `false` when that took too long.
    pub(crate) async fn stop(&self, deadline: Instant) -> bool {
        self.tasks.close();
        timeout_at(deadline, self.tasks.wait()).await.is_ok()
    }
}

/// Whether another request may help now. After a deadline the server may be at work on the message, and a server that has enough
/// is not asked more.
fn may_help(error: &SendError, alone: bool) -> bool {
    error.class(alone) == RetryClass::Transient
        && !matches!(error.refusal(), Refusal::Slow | Refusal::SizeOrRate)
        && error.retry_after().is_none()
}
