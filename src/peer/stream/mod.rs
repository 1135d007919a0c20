//! A stream: one ordered flow of a peer.

pub(super) mod address;
pub(super) mod arrival;
pub(super) mod delivery;
pub(super) mod facts;
pub(super) mod id;
pub(super) mod incoming;
pub(super) mod outgoing;

use std::sync::Arc;

use self::arrival::Arrival;
use self::delivery::Delivery;
use self::facts::{EndReason, StreamFacts, StreamSignal};
use self::id::StreamId;
use self::incoming::Incoming;
use self::outgoing::Outgoing;
use crate::peer::connect::flow::StreamBreaker;
use crate::peer::connect::session::Life;
use crate::peer::core::{Core, OpenStream, Registered};
use crate::peer::error::PeerError;
use crate::recipient::Recipient;

/// An open stream. Its halves may be borrowed at once, so that one task reads while it writes.
///
/// End it with [`end`](Stream::end). A stream that is dropped ends as [`EndReason::Lost`], and what its interceptors
/// hold back is not emitted.
///
/// # Examples
///
/// See [`Connector`](crate::peer::Connector).
pub struct Stream {
    /// What comes in.
    pub incoming: Incoming,
    /// What goes out.
    pub outgoing: Outgoing,
    open: Registration,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", self.id()).finish_non_exhaustive()
    }
}

/// A stream in the registers of this process and of the database.
struct Registration {
    core: Arc<Core>,
    id: StreamId,
    facts: StreamFacts,
    to: Recipient,
    is_ended: bool,
}

impl Stream {
    pub(super) async fn open(
        core: &Arc<Core>,
        life: &Arc<Life>,
        id: StreamId,
        facts: StreamFacts,
    ) -> Result<Self, PeerError> {
        let to = Recipient::new(core.kind(), id.as_str());
        let to = to.map_err(|source| PeerError::store(format!("open stream {id} of peer {}", core.id()), source))?;
        let (attended, closing) = (Arc::clone(&core.attended), core.drained.child_token());
        let delivery = Arc::new(Delivery::new(to.clone(), attended, core.declared.limits.in_flight, closing));
        let breaker = StreamBreaker::new(&core.declared.limits);
        let stream = OpenStream { delivery: Arc::clone(&delivery), breaker: breaker.clone() };
        core.register(&id, stream).map_err(|refused| refusal(core, &id, refused))?;
        // From here on a drop ends the stream.
        let mut open = Registration { core: Arc::clone(core), id: id.clone(), facts, to: to.clone(), is_ended: false };
        let incoming = Incoming::new(core, life, &id, &open.facts)?;
        let outgoing = Outgoing::new(core, life, &id, delivery, breaker)?;
        if let Err(error) = open.note_start().await {
            open.abandon();
            return Err(error);
        }
        core.attended.attend(&to);
        Ok(Stream { incoming, outgoing, open })
    }

    /// Returns the id of the stream.
    #[must_use]
    pub fn id(&self) -> &StreamId {
        &self.open.id
    }

    /// Ends the stream: emits what interceptors hold back, and then the end itself.
    ///
    /// Events that were not sent stay in the eventbox of the stream, and the mapping says what becomes of them.
    ///
    /// # Errors
    ///
    /// [`PeerError::Framing`] when the end came in the middle of a message, [`PeerError::Store`] when the database did
    /// not take the end: another process notes it later. The stream has ended all the same.
    ///
    /// # Cancel safety
    ///
    /// A dropped future ends the stream as lost.
    pub async fn end(self, reason: EndReason) -> Result<(), PeerError> {
        self.end_with(reason, Arrival::bytes(Vec::new())).await
    }

    /// Ends the stream as [`end`](Stream::end) does. What interceptors hold back gets the id, the fields and the
    /// checkpoint of `last`, whose data is not used. The checkpoint is stored only when the end comes behind a whole
    /// message.
    ///
    /// # Errors
    ///
    /// As [`end`](Stream::end).
    ///
    /// # Cancel safety
    ///
    /// As [`end`](Stream::end).
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::{Arrival, EndReason, PeerError, Stream};
    ///
    /// async fn read_to_the_end(stream: Stream) -> Result<(), PeerError> {
    ///     stream.end_with(EndReason::Finished, Arrival::bytes("").id("end").checkpoint("finished")).await
    /// }
    /// ```
    pub async fn end_with(mut self, reason: EndReason, last: Arrival) -> Result<(), PeerError> {
        let rest = match &reason {
            // What was read of a broken message is no message.
            EndReason::Failed(_) | EndReason::Framing(_) | EndReason::Lost => Ok(()),
            _ => self.incoming.finish(last).await,
        };
        self.open.note_end(reason).await?;
        rest
    }
}

fn refusal(core: &Core, id: &StreamId, refused: Registered) -> PeerError {
    let (peer, stream) = (core.id().to_owned(), id.to_string());
    match refused {
        Registered::Already => PeerError::Open { peer, stream },
        Registered::TooMany => PeerError::TooMany { peer, stream, limit: core.declared.limits.streams.get() },
    }
}

impl Registration {
    async fn note_start(&self) -> Result<(), PeerError> {
        let (core, id) = (&self.core, &self.id);
        let (peer, stream) = (core.id().to_owned(), id.clone());
        let signal = StreamSignal::Started { peer, stream, facts: self.facts.clone() };
        let name = format!("started:{}", StreamId::unique());
        let template = core.declared.mapping.signals.as_ref();
        let event = core.signal_event(template, id, &self.facts, &name, signal.to_json());
        let opened = core.door.open(core.id(), id, &self.facts, event.as_ref()).await;
        let is_ours =
            opened.map_err(|source| PeerError::store(format!("open stream {id} of peer {}", core.id()), source))?;
        if !is_ours {
            return Err(PeerError::Held { peer: core.id().to_owned(), stream: id.to_string() });
        }
        core.metrics.started();
        core.linked.started(&core.declared.links, id);
        let _ = core.signals.send(signal);
        Ok(())
    }

    /// Forgets a stream that was never open. Its row is removed if the database noted it without an answer.
    fn abandon(&mut self) {
        self.is_ended = true;
        self.core.unregister(&self.id);
        let (core, id) = (Arc::clone(&self.core), self.id.clone());
        tokio::spawn(async move { core.door.close(core.id(), &id, core.door.worker(), None).await });
    }

    async fn note_end(&mut self, reason: EndReason) -> Result<(), PeerError> {
        self.leave(&reason);
        let (core, id) = (&self.core, &self.id);
        let noted = end_in_database(core, id, &self.facts, &reason).await;
        let _ = core.signals.send(StreamSignal::Ended { peer: core.id().to_owned(), stream: id.clone(), reason });
        noted.map(|_| ())
    }

    /// Removes the stream from the registers of this process.
    fn leave(&mut self, reason: &EndReason) {
        self.is_ended = true;
        let core = &self.core;
        core.attended.leave(&self.to);
        core.unregister(&self.id);
        core.metrics.ended(reason);
        core.linked.ended(&core.declared.links, &self.id);
        if reason.is_failure() {
            core.flow.died();
        }
    }
}

/// Notes the end of a stream of this process in the database, with the signal that the mapping asks for.
async fn end_in_database(
    core: &Core,
    id: &StreamId,
    facts: &StreamFacts,
    reason: &EndReason,
) -> Result<bool, PeerError> {
    let (peer, stream) = (core.id().to_owned(), id.clone());
    let value = StreamSignal::Ended { peer, stream, reason: reason.clone() }.to_json();
    let name = format!("ended:{}", StreamId::unique());
    let event = core.signal_event(core.declared.mapping.signals.as_ref(), id, facts, &name, value);
    let closed = core.door.close(core.id(), id, core.door.worker(), event.as_ref()).await;
    closed.map_err(|source| PeerError::store(format!("close stream {id} of peer {}", core.id()), source))
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        self.leave(&EndReason::Lost);
        let (core, id, facts) = (Arc::clone(&self.core), self.id.clone(), self.facts.clone());
        let peer = core.id().to_owned();
        let _ = core.signals.send(StreamSignal::Ended { peer, stream: id.clone(), reason: EndReason::Lost });
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = end_in_database(&core, &id, &facts, &EndReason::Lost).await {
                tracing::warn!(peer = core.id(), stream = %id, %error, "the end of a stream was not noted");
            }
        });
    }
}
