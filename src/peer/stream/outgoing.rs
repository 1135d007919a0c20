//! What goes out on a stream: the events of its eventbox, encoded.

use std::sync::Arc;

use bytes::Bytes;

use super::delivery::Delivery;
use super::id::StreamId;
use crate::error::BoxError;
use crate::eventbox::{Event, EventId};
use crate::peer::connect::flow::{Passes, StreamBreaker};
use crate::peer::connect::session::Life;
use crate::peer::core::Core;
use crate::peer::error::PeerError;
use crate::peer::framing::{Chain, Chunk, Codec, Direction, FramingError};
use crate::peer::metrics::Port;
use crate::text::{Chain as Causes, fit};

/// The half of a stream that goes out.
pub struct Outgoing {
    core: Arc<Core>,
    life: Arc<Life>,
    id: StreamId,
    delivery: Arc<Delivery>,
    breaker: StreamBreaker,
    chain: Chain,
    codec: Option<Box<dyn Codec>>,
    /// Whether this process reports that the stream cannot send.
    is_failing: bool,
}

/// One event to send.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OutgoingEvent {
    /// Event as it is in the eventbox.
    pub event: Event,
    /// Its bytes for the wire. Empty while an interceptor holds them back.
    pub encoded: Vec<Bytes>,
}

/// Events to send, in order. Acknowledge a batch with [`Outgoing::ack`], or give it back with [`Outgoing::fail`].
///
/// A dropped batch is sent again by the next session of the stream.
#[must_use]
pub struct Batch {
    events: Vec<OutgoingEvent>,
    passes: Passes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("events", &self.events.len()).finish_non_exhaustive()
    }
}

impl Batch {
    /// Returns the events.
    #[must_use]
    pub fn events(&self) -> &[OutgoingEvent] {
        &self.events
    }

    /// Returns all encoded bytes, in order.
    pub fn bytes(&self) -> impl Iterator<Item = &Bytes> + Send {
        self.events.iter().flat_map(|event| &event.encoded)
    }

    /// Returns the number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether the batch has no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("stream", &self.id).finish_non_exhaustive()
    }
}

impl Outgoing {
    pub(super) fn new(
        core: &Arc<Core>,
        life: &Arc<Life>,
        id: &StreamId,
        delivery: Arc<Delivery>,
        breaker: StreamBreaker,
    ) -> Result<Self, PeerError> {
        let declared = &core.declared;
        let framing = |source| PeerError::Framing { peer: declared.id.clone(), stream: id.to_string(), source };
        let (chain, codec) = writer_of(core).map_err(framing)?;
        Ok(Outgoing {
            core: Arc::clone(core),
            life: Arc::clone(life),
            id: id.clone(),
            delivery,
            breaker,
            chain,
            codec,
            is_failing: false,
        })
    }

    /// Waits for events to send, in the order of the eventbox. `None` at the end: flush, close, and end the stream.
    ///
    /// An event that cannot be encoded goes into the quarantine, and the others go on. While a breaker of the stream or
    /// of the peer is open, the method waits; at the end of the stream it returns `None` instead.
    ///
    /// # Cancel safety
    ///
    /// Safe: events that were not returned are returned by the next call.
    ///
    /// # Examples
    ///
    /// See [`Connector`](crate::peer::Connector).
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            self.delivery.ready().await?;
            let passes = tokio::select! {
                biased;
                passes = self.core.flow.pass(&self.breaker) => passes,
                // A breaker may stay open for longer than a stop lasts: the events stay in the eventbox.
                () = self.delivery.closed() => return None,
            };
            // No await from here on, so that no event is lost between the queue and the batch.
            let Some(taken) = self.delivery.take_now(self.core.declared.limits.batch_bytes.get()) else { continue };
            let mut events: Vec<OutgoingEvent> = taken.into_iter().filter_map(|event| self.encode(event)).collect();
            self.release_gathered(&mut events);
            if !events.is_empty() {
                return Some(Batch { events, passes });
            }
        }
    }

    /// Returns the oldest event that may still be in the eventbox of the stream, sent or not: older ones are consumed,
    /// and will never come again. `None` before the first batch.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::Outgoing;
    ///
    /// /// A receiver that knows which events it has may forget those before this one.
    /// fn to_remember(outgoing: &Outgoing) -> String {
    ///     outgoing.oldest().map(|id| id.to_string()).unwrap_or_default()
    /// }
    /// ```
    #[must_use]
    pub fn oldest(&self) -> Option<EventId> {
        self.delivery.oldest()
    }

    fn encode(&mut self, event: Event) -> Option<OutgoingEvent> {
        match self.encoded(&event) {
            Ok(encoded) => Some(OutgoingEvent { event, encoded }),
            Err(error) => {
                // The next events get interceptors that this one has not broken.
                if error.ends_stream()
                    && let Ok(writer) = writer_of(&self.core)
                {
                    (self.chain, self.codec) = writer;
                }
                self.refuse(event.id(), error);
                None
            }
        }
    }

    /// Adds what interceptors gather to the last event, so that no event is acknowledged while its bytes are held back.
    fn release_gathered(&mut self, events: &mut [OutgoingEvent]) {
        let (mut gathered, Some(last)) = (Vec::new(), events.last_mut()) else { return };
        if self.core.declared.connector.has_whole_messages() {
            return;
        }
        if let Err(error) = self.chain.flush(&mut gathered) {
            tracing::warn!(peer = self.core.id(), stream = %self.id, error = %Causes(&error), "bytes were held back");
        }
        last.encoded.extend(gathered.into_iter().map(|chunk| chunk.bytes));
    }

    fn encoded(&mut self, event: &Event) -> Result<Vec<Bytes>, FramingError> {
        let is_whole = self.core.declared.connector.has_whole_messages();
        if is_whole {
            (self.chain, self.codec) = writer_of(&self.core)?;
        }
        let messages = match &mut self.codec {
            Some(codec) => {
                let mut out = Vec::new();
                codec.encode(event.value(), &mut out)?;
                out
            }
            None => vec![event.bytes()],
        };
        self.frame(messages, is_whole)
    }

    fn frame(&mut self, messages: Vec<Bytes>, is_whole: bool) -> Result<Vec<Bytes>, FramingError> {
        let mut out = Vec::new();
        for message in messages {
            self.chain.process(Chunk::new(message, 0), &mut out)?;
        }
        if is_whole {
            self.chain.finish(&mut out)?;
        }
        Ok(out.into_iter().map(|chunk| chunk.bytes).collect())
    }

    /// Notes that the other side has a batch: a turn consumes its events.
    pub fn ack(&mut self, batch: Batch) {
        let Batch { events, passes } = batch;
        self.core.metrics.sent(events.iter().flat_map(|event| &event.encoded).map(Bytes::len).sum());
        self.acknowledge(events.iter().map(|event| event.event.id()));
        self.core.flow.succeeded(passes);
        if std::mem::take(&mut self.is_failing) {
            self.core.attended.recovered(self.delivery.recipient());
        }
    }

    /// Notes that the other side has some events of batches that were taken apart with
    /// [`detach`](Outgoing::detach).
    pub fn ack_events(&mut self, ids: &[EventId]) {
        self.acknowledge(ids.iter().copied());
    }

    fn acknowledge(&self, ids: impl ExactSizeIterator<Item = EventId>) {
        self.core.metrics.acknowledged(ids.len());
        self.core.metrics.events(Port::In, ids.len());
        self.delivery.acknowledge(ids);
        self.life.delivered();
    }

    /// Takes a batch apart, whose events get their outcomes one by one: [`ack_events`](Outgoing::ack_events),
    /// [`fail_events`](Outgoing::fail_events), [`refuse`](Outgoing::refuse).
    #[must_use]
    pub fn detach(&mut self, batch: Batch) -> Vec<OutgoingEvent> {
        self.core.flow.succeeded(batch.passes);
        batch.events
    }

    /// Gives a batch back that was not delivered: its events are sent again. Failures in a row open the breaker of the
    /// stream.
    pub fn fail(&mut self, batch: Batch, error: &(dyn std::error::Error + 'static)) {
        let Batch { events, passes } = batch;
        self.core.flow.failed(passes);
        if self.breaker.is_open() {
            self.is_failing = true;
            self.core.attended.failed(self.delivery.recipient(), &Causes(error).to_string());
        }
        self.fail_events(events, error);
    }

    /// Gives events back that were not delivered.
    pub fn fail_events(&mut self, events: Vec<OutgoingEvent>, error: &(dyn std::error::Error + 'static)) {
        let error = Causes(error).to_string();
        tracing::warn!(peer = self.core.id(), stream = %self.id, events = events.len(), %error, "events were not sent");
        self.core.metrics.failed(events.len());
        self.core.update_status(|status| status.send_error = Some(error));
        self.delivery.put_back(events.into_iter().map(|event| event.event).collect());
    }

    /// Notes that an event can never be delivered, by its own fault: it goes into the quarantine with this error, and
    /// the others go on.
    pub fn refuse(&mut self, id: EventId, error: impl Into<BoxError>) {
        let error: BoxError = error.into();
        let reason = fit(&Causes(&*error).to_string(), crate::admin::MAX_REASON_BYTES);
        self.core.metrics.refused();
        self.delivery.refuse(id);
        let (core, delivery, id_of_stream) = (Arc::clone(&self.core), Arc::clone(&self.delivery), self.id.clone());
        // In a task, because the connection goes on. A refused event that stays in the box is offered again by the next
        // session of the stream.
        tokio::spawn(async move {
            if let Err(error) = core.door.quarantine(delivery.recipient(), &[id], &reason).await {
                tracing::warn!(peer = core.id(), stream = %id_of_stream, event = %id, %error, "not in quarantine yet");
                delivery.offer_again(id);
            }
        });
    }

    /// Returns the bytes that interceptors hold back: write them before the connection closes.
    ///
    /// # Errors
    ///
    /// [`PeerError::Framing`].
    pub fn flush(&mut self) -> Result<Vec<Bytes>, PeerError> {
        if self.core.declared.connector.has_whole_messages() {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        let (peer, stream) = (self.core.id().to_owned(), self.id.to_string());
        self.chain.finish(&mut out).map_err(|source| PeerError::Framing { peer, stream, source })?;
        Ok(out.into_iter().map(|chunk| chunk.bytes).collect())
    }
}

/// Makes the codec and the interceptors of a stream, or of a message.
fn writer_of(core: &Core) -> Result<(Chain, Option<Box<dyn Codec>>), FramingError> {
    let declared = &core.declared;
    let limits = &declared.limits.framing;
    let leaving: Vec<_> = declared.interceptors.iter().rev().cloned().collect();
    let chain = Chain::new(&leaving, Direction::Outgoing, limits)?;
    Ok((chain, declared.codec.as_ref().map(|codec| codec.build(limits))))
}
