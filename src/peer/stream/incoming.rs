//! What comes in on a stream: bytes become events, and the mapping's recipients get them.

mod at_checkpoint;
mod check;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::arrival::{Arrival, Data, Received};
use super::facts::StreamFacts;
use super::id::StreamId;
use crate::clock;
use crate::eventbox::{Emitted, Event, MAX_EMIT_BYTES, MAX_EMIT_EVENTS};
use crate::origin::Origin;
use crate::peer::boxes::door::Emission;
use crate::peer::connect::session::Life;
use crate::peer::core::Core;
use crate::peer::declare::mapping::ArrivalFields;
use crate::peer::error::PeerError;
use crate::peer::framing::{Chain, Chunk, Codec, Decoded, Direction, FramingError};
use crate::peer::metrics::Port;
use crate::recipient::MAX_KEY_BYTES;
use crate::store::Durability;
use crate::text::Chain as Causes;

/// The half of a stream that comes in.
pub struct Incoming {
    core: Arc<Core>,
    life: Arc<Life>,
    id: StreamId,
    facts: StreamFacts,
    chain: Chain,
    codec: Option<Box<dyn Codec>>,
    /// Tells the events of one session from those of another one, where the stream keeps its id.
    epoch: Option<String>,
    number: u64,
    checkpoint: Position,
}

/// What is known of the checkpoint of the stream.
enum Position {
    Unread,
    At(Option<String>),
}

/// Events that one call makes, and what went wrong beside them.
#[derive(Default)]
struct Made {
    events: Vec<Emission>,
    numbers: Vec<u64>,
    errors: usize,
    checkpoint: Option<String>,
    /// Events of which the outside is told before an answer.
    told: usize,
    /// The error that ends the stream.
    last: Option<PeerError>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("stream", &self.id).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Incoming {
    pub(super) fn new(
        core: &Arc<Core>,
        life: &Arc<Life>,
        id: &StreamId,
        facts: &StreamFacts,
    ) -> Result<Self, PeerError> {
        let declared = &core.declared;
        let framing = |source| PeerError::Framing { peer: declared.id.clone(), stream: id.to_string(), source };
        let (chain, codec) = reader_of(core).map_err(framing)?;
        let keeps_id = declared.connector.keeps_stream_ids();
        Ok(Incoming {
            core: Arc::clone(core),
            life: Arc::clone(life),
            id: id.clone(),
            facts: facts.clone(),
            chain,
            codec,
            epoch: keeps_id.then(|| StreamId::unique().to_string()),
            number: if keeps_id { first_number() } else { 0 },
            checkpoint: Position::Unread,
        })
    }

    /// Takes what arrived, and emits the events in it. Returns after the commit, so that a connector may acknowledge to
    /// the outside.
    ///
    /// Contention and failures of the database are retried until the stop's deadline, which the names of the events
    /// make harmless. What cannot be decoded, mapped or emitted goes to the *err* port, and the stream lives on.
    ///
    /// # Errors
    ///
    /// * [`PeerError::Framing`] when the rest of the stream has no meaning any more: end the stream.
    /// * [`PeerError::Store`] and [`PeerError::Stopped`] when the events were not emitted: acknowledge nothing.
    /// * [`PeerError::Checkpoint`] when another process reads the stream.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have emitted the events; their bytes are gone from the stream. End the stream.
    ///
    /// # Examples
    ///
    /// See [`Connector`](crate::peer::Connector).
    pub async fn receive(&mut self, arrival: impl Into<Arrival> + Send) -> Result<Received, PeerError> {
        self.receive_all(vec![arrival.into()]).await
    }

    /// Takes many arrivals in one emit. The last checkpoint among them counts.
    ///
    /// # Errors
    ///
    /// As [`receive`](Incoming::receive).
    ///
    /// # Cancel safety
    ///
    /// As [`receive`](Incoming::receive).
    pub async fn receive_all(&mut self, arrivals: Vec<Arrival>) -> Result<Received, PeerError> {
        let mut made = Made::default();
        for arrival in arrivals {
            self.take(arrival, &mut made);
            if made.last.is_some() {
                break;
            }
        }
        self.emit(made).await
    }

    /// Flushes what interceptors hold back, with the id, the fields and the checkpoint of an arrival.
    pub(super) async fn finish(&mut self, last: Arrival) -> Result<(), PeerError> {
        if self.core.declared.connector.has_whole_messages() {
            return Ok(());
        }
        let (mut chunks, mut made) = (Vec::new(), Made::default());
        let finished = self.chain.finish(&mut chunks);
        self.decode(chunks, &last, &mut made);
        made.checkpoint = last.checkpoint.filter(|_| finished.is_ok());
        if let Err(error) = finished {
            self.refused(&error, &mut made);
            made.last = Some(self.framing(error));
        }
        self.emit(made).await.map(|_| ())
    }

    fn take(&mut self, arrival: Arrival, made: &mut Made) {
        match &arrival.data {
            Data::Value(value) => {
                self.core.metrics.received(value.len());
                let decoded = Decoded::new(value.clone(), now_ns());
                self.map(vec![decoded], &arrival, made);
            }
            Data::Bytes(bytes) => {
                self.core.metrics.received(bytes.len());
                let mut chunks = Vec::new();
                let is_whole = self.core.declared.connector.has_whole_messages();
                let passed = match is_whole {
                    true => self.pass_whole(bytes.clone(), &mut chunks),
                    false => self.chain.process(Chunk::new(bytes.clone(), now_ns()), &mut chunks),
                };
                self.decode(chunks, &arrival, made);
                if let Err(error) = passed {
                    self.refused(&error, made);
                    if error.ends_stream() && !is_whole {
                        made.last = Some(self.framing(error));
                    }
                }
            }
        }
        if arrival.checkpoint.is_some() {
            made.checkpoint = arrival.checkpoint;
        }
    }

    /// Passes a message that is whole through interceptors of its own.
    fn pass_whole(&mut self, bytes: Bytes, chunks: &mut Vec<Chunk>) -> Result<(), FramingError> {
        (self.chain, self.codec) = reader_of(&self.core)?;
        self.chain.process(Chunk::new(bytes, now_ns()), chunks)?;
        self.chain.finish(chunks)
    }

    fn decode(&mut self, chunks: Vec<Chunk>, arrival: &Arrival, made: &mut Made) {
        let mut decoded = Vec::new();
        let mut errors = Vec::new();
        for chunk in chunks {
            match &mut self.codec {
                Some(codec) => {
                    if let Err(error) = codec.decode(chunk, &mut decoded) {
                        errors.push(error);
                    }
                }
                None => decoded.push(Decoded::new(chunk.bytes, chunk.ingest_ns)),
            }
        }
        self.map(decoded, arrival, made);
        errors.iter().for_each(|error| self.refused(error, made));
    }

    /// Gives each value its number, name and recipient.
    fn map(&mut self, values: Vec<Decoded>, arrival: &Arrival, made: &mut Made) {
        for (index, decoded) in values.into_iter().enumerate() {
            let number = arrival.number.unwrap_or_else(|| {
                self.number += 1;
                self.number
            });
            let id = decoded.id.clone().or_else(|| arrival.id.clone());
            match self.emission(&decoded, id.as_deref(), number, index, arrival) {
                Ok(emission) => {
                    made.told += usize::from(id.is_some() || !arrival.is_acknowledged_by_answer);
                    made.events.push(emission);
                    made.numbers.push(number);
                }
                Err(problem) => {
                    let (peer, stream) = (self.core.id().to_owned(), self.id.to_string());
                    self.refused(&PeerError::Mapping { peer, stream, problem }, made);
                }
            }
        }
    }

    fn emission(
        &self,
        decoded: &Decoded,
        id: Option<&str>,
        number: u64,
        index: usize,
        arrival: &Arrival,
    ) -> Result<Emission, String> {
        let peer = self.core.id();
        let template = self.core.declared.mapping.to.as_ref();
        let template = template.ok_or("the peer only sends: set `to` in its mapping")?;
        let json = if template.reads_json() { serde_json::from_slice(&decoded.value).ok() } else { None };
        let fields = ArrivalFields { peer, stream: &self.id, facts: &self.facts, own: &arrival.fields, json };
        let to = template.fill(&fields)?;
        let name = self.name(id, number, index, arrival.of_peer);
        let origin = Origin::new(peer, self.id.as_str(), number).map_err(|error| error.to_string())?;
        let event = Event::new(decoded.value.clone()).named(name).with_origin(origin);
        Ok((to, arrival.cause.iter().fold(event, Event::caused_by)))
    }

    /// Returns the name of an event: `peer:stream:event`. A long id goes in as its hash.
    fn name(&self, id: Option<&str>, number: u64, index: usize, of_peer: bool) -> String {
        let own = match (id, &self.epoch) {
            (Some(id), _) => id.to_owned(),
            (None, Some(epoch)) => format!("{epoch}:{number}"),
            (None, None) => number.to_string(),
        };
        let own = if index == 0 { own } else { format!("{own}.{index}") };
        let stream = if of_peer { "" } else { self.id.as_str() };
        let prefix = format!("{}:{stream}:", self.core.id());
        if prefix.len() + own.len() <= MAX_KEY_BYTES && !own.contains('\0') {
            return prefix + &own;
        }
        let hash = Sha256::digest(own.as_bytes());
        hash.iter().fold(prefix, |text, byte| text + &format!("{byte:02x}"))
    }

    /// Notes an error, and sends it to the recipient that the mapping names for errors.
    fn refused(&self, error: &(dyn std::error::Error + 'static), made: &mut Made) {
        made.errors += 1;
        self.core.metrics.events(Port::Err, 1);
        let text = Causes(error).to_string();
        tracing::debug!(peer = self.core.id(), stream = %self.id, error = text, "an arrival was refused");
        let Some(template) = &self.core.declared.mapping.errors else { return };
        let (peer, facts) = (self.core.id(), &self.facts);
        let fields = ArrivalFields { peer, stream: &self.id, facts, own: &[], json: None };
        match template.fill(&fields) {
            Ok(to) => {
                let value = json!({"error": text, "peer": peer, "stream": self.id.as_str(), "number": self.number});
                let name = format!("{peer}:{}:err:{}", self.id, StreamId::unique());
                made.events.push((to, Event::new(value.to_string()).named(name)));
            }
            Err(problem) => tracing::warn!(peer, problem, "the mapping names no recipient for errors"),
        }
    }

    fn framing(&self, source: FramingError) -> PeerError {
        PeerError::Framing { peer: self.core.id().to_owned(), stream: self.id.to_string(), source }
    }

    async fn emit(&mut self, made: Made) -> Result<Received, PeerError> {
        let Made { events, numbers, errors, checkpoint, told, last } = made;
        let durability = if told + errors == 0 { Durability::Deferred } else { Durability::Immediate };
        let mut received = Received { errors, first: numbers.first().copied(), ..Received::default() };
        received.last = numbers.last().copied();
        let answers = match checkpoint {
            Some(to) => self.emit_at(events, to, &mut received).await?,
            None => self.emit_in_parts(events, durability, &mut received).await?,
        };
        received.events = numbers.len().saturating_sub(received.errors.saturating_sub(errors));
        received.duplicates = answers.iter().filter(|answer| **answer != Emitted::Added).count();
        self.core.metrics.events(Port::Out, received.events);
        self.core.metrics.duplicates(received.duplicates);
        if received.events > 0 {
            self.life.delivered();
        }
        match last {
            Some(error) => Err(error),
            None => Ok(received),
        }
    }

    /// Emits events in parts that one emit may have. An event that the database refuses for good goes to the *err*
    /// port.
    async fn emit_in_parts(
        &mut self,
        mut events: Vec<Emission>,
        durability: Durability,
        received: &mut Received,
    ) -> Result<Vec<Emitted>, PeerError> {
        let mut answers = Vec::new();
        while !events.is_empty() {
            let rest = events.split_off(part_of(&events));
            let part = std::mem::replace(&mut events, rest);
            match self.core.door.emit(part.clone(), durability).await {
                Ok(part) => answers.extend(part),
                Err(error) if part.len() == 1 && is_own_fault(&error) => {
                    let mut made = Made::default();
                    self.refused(&error, &mut made);
                    received.errors += 1;
                    // An error of the event that tells of an error is not told of again.
                    let told = self.core.door.emit(made.events, Durability::Immediate).await;
                    told.map_err(|source| self.not_emitted(source))?;
                }
                Err(error) if is_own_fault(&error) => {
                    for one in part {
                        answers.extend(Box::pin(self.emit_in_parts(vec![one], durability, received)).await?);
                    }
                }
                Err(error) => return Err(self.not_emitted(error)),
            }
        }
        Ok(answers)
    }

    fn not_emitted(&self, source: crate::error::Error) -> PeerError {
        PeerError::store(format!("emit events of stream {} of peer {}", self.id, self.core.id()), source)
    }
}

/// Makes the interceptors and the codec of a stream, or of a message.
fn reader_of(core: &Core) -> Result<(Chain, Option<Box<dyn Codec>>), FramingError> {
    let declared = &core.declared;
    let limits = &declared.limits.framing;
    let chain = Chain::new(&declared.interceptors, Direction::Incoming, limits)?;
    Ok((chain, declared.codec.as_ref().map(|codec| codec.build(limits))))
}

/// Returns whether an emit failed for a reason that stays: the event breaks a limit, or the database refuses it.
fn is_own_fault(error: &crate::error::Error) -> bool {
    !error.is_transient()
        && !matches!(error, crate::error::Error::Unknown { .. })
        && !matches!(error, crate::error::Error::Misuse { misuse: crate::error::Misuse::Stopped { .. }, .. })
}

/// Returns the number of events that one emit may have, at least one.
fn part_of(events: &[Emission]) -> usize {
    let mut bytes = 0_usize;
    let fits = events.iter().take(MAX_EMIT_EVENTS).take_while(|(_, event)| {
        bytes = bytes.saturating_add(event.value().len());
        bytes <= MAX_EMIT_BYTES
    });
    fits.count().max(1)
}

fn now_ns() -> u64 {
    let now = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns where the numbers of a stream begin that keeps its id: above those of earlier sessions.
fn first_number() -> u64 {
    now_ns() / 1_000
}
