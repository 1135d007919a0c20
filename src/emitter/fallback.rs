//! A second chance by the unary call, for messages whose batch failed for a transient reason.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::batch::Sent;
use super::outcome::{EventErrorCode, RetryClass, SendError};
use super::send::Sender;
use super::settle::{Delivery, Settling};
use crate::proto::chipingress::pb::PublishResponse;

/// Second chances at the same time; a message that finds none free waits for its next attempt.
pub const MAX_FALLBACKS: usize = 16;

/// Sends messages once more, one at a time each.
pub(super) struct Fallback {
    sender: Arc<Sender>,
    settling: Arc<Settling>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Fallback {
    pub(super) fn new(sender: Arc<Sender>, settling: Arc<Settling>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(MAX_FALLBACKS));
        Arc::new(Fallback { sender, settling, slots, tasks: TaskTracker::new() })
    }

    /// Settles a message, after a second chance if it should have one.
    pub(super) fn settle(self: &Arc<Self>, delivery: Delivery, mut sent: Sent, send_before: Instant) {
        let transient = matches!(&sent.result, Err(error) if error.class(sent.alone) == RetryClass::Transient);
        let slot =
            if transient && Instant::now() < send_before { self.slots.clone().try_acquire_owned().ok() } else { None };
        let Some((slot, mut event)) = slot.and_then(|slot| Some((slot, sent.event.take()?))) else {
            return self.settling.settle(delivery, &sent);
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.settling.metrics.fallbacks_in_flight(1.0);
            this.sender.stamp(&mut event);
            let wire = event.into_wire();
            let limit = this.sender.config().publish_timeout;
            let answer = timeout(limit, this.sender.transport().publish(&wire, limit)).await;
            if let Ok(Ok(response)) = answer {
                sent.result = result_of(response);
            }
            this.settling.metrics.published_alone(sent.result.is_err());
            sent.event = Some(crate::cloudevent::CloudEvent::trusted(wire));
            this.settling.settle(delivery, &sent);
            this.settling.metrics.fallbacks_in_flight(-1.0);
            drop(slot);
        });
    }

    /// Waits for what is under way; `false` when that took too long.
    pub(super) async fn stop(&self, deadline: Instant) -> bool {
        self.tasks.close();
        timeout_at(deadline, self.tasks.wait()).await.is_ok()
    }
}

/// The result of a unary publish, which may be an error in an OK answer.
pub(super) fn result_of(response: PublishResponse) -> Result<(), SendError> {
    match response.results.into_iter().next().and_then(|result| result.error) {
        None => Ok(()),
        Some(error) => Err(SendError::Event { code: EventErrorCode(error.error_code), reason: error.reason }),
    }
}
