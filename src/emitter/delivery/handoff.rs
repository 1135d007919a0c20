//! Hands claimed rows to the client, from memory or after a claim.

use std::sync::Arc;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::batch::BatchClient;
use crate::cloudevent::CloudEvent;
use crate::emitter::context::Context;
use crate::emitter::delivery::paused::Paused;
use crate::emitter::metrics::{SendPhase, SourceType};
use crate::emitter::outcomes::Outcomes;
use crate::emitter::outcomes::fallback::Fallback;
use crate::emitter::outcomes::in_flight::{Admission, Delivery, InFlight};
use crate::outbox::row::Stored;
use crate::room::MAX_QUEUE_BYTES;

/// Result of handing over a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handover {
    /// The emitter sends the row from memory.
    Queued,
    /// The row waits for room in the queue, for a second in memory and then for a host. If the emitter is not running,
    /// a host sends the row when the claim of the insert has ended.
    LeftWaiting,
    /// An operator paused the destination: the row waits in the outbox until it is resumed.
    Paused,
}

/// The way from a claimed row to the client and back to the outcome.
pub(crate) struct Handoff {
    pub(crate) context: Arc<Context>,
    pub(crate) client: Arc<BatchClient>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) fallback: Option<Arc<Fallback>>,
    pub(crate) paused: Paused,
}

/// Bytes that the attributes of a message take at most, in most messages.
const ATTRIBUTE_BYTES: usize = 1 << 10;

impl Handoff {
    /// Returns whether the queue of the client most likely takes the message now.
    pub(crate) fn has_place(&self, stored: &Stored) -> bool {
        // A message that is larger than the whole queue fits when the queue is empty.
        let bytes = (stored.event.payload().len() + ATTRIBUTE_BYTES).min(MAX_QUEUE_BYTES);
        self.client.free() > 0 && self.client.free_bytes() >= bytes && self.in_flight.free() > 0
    }

    /// Returns whether an operator paused the destination of the message.
    pub(crate) fn is_paused(&self, stored: &Stored) -> bool {
        self.paused.holds(stored.event.source(), stored.event.event_type())
    }

    /// Counts a message that found the queue of the client full.
    pub(crate) fn note_full(&self, stored: &Stored) {
        let pair = SourceType::of(stored.event.source(), stored.event.event_type());
        self.context.metrics.buffer_full(SendPhase::Batch, &pair);
        self.context.counters.left_waiting();
        tracing::debug!(id = %stored.key.id, "the queue to the sender is full: the message waits");
    }

    /// Sends a row from memory whose insert was the claim.
    pub(crate) fn deliver(&self, stored: Stored) -> Handover {
        if self.is_paused(&stored) {
            return Handover::Paused;
        }
        let Stored { key, event, attempts, claimed_until, .. } = stored;
        let pair = SourceType::of(event.source(), event.event_type());
        let queued = match self.in_flight.admit((key, attempts), claimed_until, SendPhase::Batch, &pair) {
            Admission::Admitted(delivery) => self.send(event, delivery).is_ok(),
            Admission::InFlight | Admission::Full => {
                self.context.metrics.buffer_full(SendPhase::Batch, &pair);
                false
            }
        };
        if !queued {
            self.context.counters.left_waiting();
            tracing::debug!(id = %key.id, "the queue to the sender is full: the message waits in the outbox");
            return Handover::LeftWaiting;
        }
        Handover::Queued
    }

    /// Queues a message whose row is admitted. The client does not send it when its request could end after the claim.
    pub(crate) fn send(&self, event: CloudEvent, delivery: Delivery) -> Result<(), SendError> {
        let (claimed_until, attempt) = (delivery.claimed_until, delivery.attempts);
        let send_before = claimed_until.checked_sub(self.context.config.batch.publish_timeout).unwrap_or(claimed_until);
        let (phase, pair) = (delivery.phase, delivery.pair.clone());
        let (outcomes, fallback) = (Arc::clone(&self.outcomes), self.fallback.clone());
        let callback = Box::new(move |sent| match fallback {
            Some(fallback) => fallback.take(delivery, sent, send_before),
            None => outcomes.take(delivery, &sent),
        });
        let queued = self.client.queue_until(event, attempt, Some(send_before), Some(callback));
        if let Err(SendError::BufferFull) = queued {
            self.context.metrics.buffer_full(phase, &pair);
        }
        queued
    }
}
