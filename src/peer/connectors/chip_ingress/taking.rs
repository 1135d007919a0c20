//! The calls of the service: they wait in a queue, and those that wait together share an emit.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::source::ValueForm;
use crate::cloudevent::CloudEvent;
use crate::eventbox::MAX_EMIT_EVENTS;
use crate::ingress::{NotTaken, Sink, Taken};
use crate::peer::framing::{Chunk, Codec, CodecSpec, FramingLimits};
use crate::peer::{Arrival, ConnectorError, Stream};
use crate::proto::chipingress::pb::PublishErrorCode;
use crate::proto::io::cloudevents::v1 as wire;
use crate::text::Chain;

/// Most calls that wait for their emit. Further calls wait for a free place.
pub const WAITING_CALLS: usize = 256;

/// Number of events of one emit from which no further call joins.
pub const EVENTS_TOGETHER: usize = 1_000;

/// Bytes of values of one emit from which no further call joins.
const BYTES_TOGETHER: usize = 16 << 20;

/// Most events of an all-or-nothing batch, so that it fits into one emit with the calls before it.
const MAX_ALL_OR_NOTHING: usize = MAX_EMIT_EVENTS - EVENTS_TOGETHER;

/// Longest time that a call waits for a place. Then the server answers UNAVAILABLE.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

/// The events of one call, and where its answer goes.
pub(super) struct Call {
    events: Vec<wire::CloudEvent>,
    all_or_nothing: bool,
    answer: oneshot::Sender<Result<Vec<Taken>, NotTaken>>,
}

/// The sink of the service: hands each call to the stream, and waits for its answer.
pub(super) struct Calls {
    queue: mpsc::Sender<Call>,
}

impl Calls {
    pub(super) fn new(queue: mpsc::Sender<Call>) -> Self {
        Calls { queue }
    }
}

fn unavailable(reason: &str) -> NotTaken {
    NotTaken::Unavailable { reason: reason.to_owned() }
}

#[async_trait]
impl Sink for Calls {
    async fn take(&self, events: Vec<wire::CloudEvent>, all_or_nothing: bool) -> Result<Vec<Taken>, NotTaken> {
        if all_or_nothing && events.len() > MAX_ALL_OR_NOTHING {
            let reason = format!("an all-or-nothing batch has at most {MAX_ALL_OR_NOTHING} events here");
            return Err(NotTaken::Failed { reason });
        }
        let (answer, answered) = oneshot::channel();
        let call = Call { events, all_or_nothing, answer };
        match self.queue.send_timeout(call, QUEUE_WAIT).await {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(unavailable("the peer is stopping"))),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(unavailable("too many calls wait: try again later")),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(unavailable("the peer is stopping")),
        }
    }
}

/// Emits what calls bring.
pub(super) struct Taker {
    value: ValueForm,
    codec: Box<dyn Codec>,
}

impl Taker {
    pub(super) fn new(value: ValueForm) -> Result<Self, ConnectorError> {
        let spec = CodecSpec::named("cloudevents").and_then(|codec| codec.with("mode", "protobuf"));
        let spec = spec.map_err(|error| ConnectorError::refused(error.to_string()))?;
        Ok(Taker { value, codec: spec.build(&FramingLimits::default()) })
    }

    /// Takes a call and those that wait behind it, and answers them after the commit.
    pub(super) async fn take(
        &mut self,
        stream: &mut Stream,
        first: Call,
        waiting: &mut mpsc::Receiver<Call>,
    ) -> Result<(), ConnectorError> {
        let (mut arrivals, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(call) = next {
            bytes += call.events.iter().map(Message::encoded_len).sum::<usize>();
            let (of_call, taken) = self.judge(stream, call.events, call.all_or_nothing);
            arrivals.extend(of_call);
            answers.push((call.answer, taken));
            // No call joins behind one that is all or nothing: a larger emit could be cut into two.
            let is_full = call.all_or_nothing || arrivals.len() >= EVENTS_TOGETHER || bytes >= BYTES_TOGETHER;
            next = if is_full { None } else { waiting.try_recv().ok() };
        }
        let received = stream.incoming.receive_all(arrivals).await;
        let outcome = match &received {
            Ok(received) if received.errors == 0 => Ok(()),
            Ok(_) => Err(unavailable("an eventbox did not take an event")),
            Err(error) => Err(unavailable(&Chain(error).to_string())),
        };
        for (answer, taken) in answers {
            // The send fails only when the client is gone.
            let _ = answer.send(outcome.clone().map(|()| taken));
        }
        match received {
            Err(error) if error.ends_stream() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns what is to be emitted of a call, and the answer for each of its events.
    fn judge(
        &mut self,
        stream: &Stream,
        events: Vec<wire::CloudEvent>,
        all_or_nothing: bool,
    ) -> (Vec<Arrival>, Vec<Taken>) {
        let judged: Vec<Result<Arrival, Taken>> = events.into_iter().map(|event| self.arrival(stream, event)).collect();
        let is_refused = all_or_nothing && judged.iter().any(Result::is_err);
        let (mut arrivals, mut taken) = (Vec::new(), Vec::new());
        for one in judged {
            match one {
                Ok(arrival) => {
                    taken.push(Taken::Kept);
                    arrivals.push(arrival);
                }
                Err(refused) => taken.push(refused),
            }
        }
        if is_refused {
            arrivals.clear();
        }
        (arrivals, taken)
    }

    fn arrival(&mut self, stream: &Stream, event: wire::CloudEvent) -> Result<Arrival, Taken> {
        let refused = |code, reason: String| Taken::Refused { code, reason };
        let event = CloudEvent::from_wire(event)
            .map_err(|error| refused(PublishErrorCode::ValidationFailed, error.to_string()))?;
        let value = self.value_of(&event).map_err(|reason| refused(PublishErrorCode::EncodeError, reason))?;
        let arrival = Arrival::value(value).id(id_of(&event)).field("id", event.id());
        let arrival = arrival.field("source", event.source()).field("type", event.event_type());
        let arrival = match event.subject() {
            Some(subject) => arrival.field("subject", subject),
            None => arrival,
        };
        let fits = stream.incoming.check(&arrival);
        fits.map_err(|error| refused(PublishErrorCode::ValidationFailed, Chain(&error).to_string()))?;
        Ok(arrival)
    }

    fn value_of(&mut self, event: &CloudEvent) -> Result<Vec<u8>, String> {
        match self.value {
            ValueForm::Protobuf => Ok(event.encode()),
            ValueForm::Data => Ok(event.payload().to_vec()),
            ValueForm::Json => {
                let mut decoded = Vec::new();
                let read = self.codec.decode(Chunk::new(event.encode(), 0), &mut decoded);
                read.map_err(|error| error.to_string())?;
                let value = decoded.pop().ok_or("the event has no JSON form")?;
                Ok(value.value.to_vec())
            }
        }
    }
}

/// Returns the id by which a re-send is recognised. The two forms never agree, and a source has no space.
fn id_of(event: &CloudEvent) -> String {
    match event.idempotency_key() {
        Some(key) => format!("key:{key}"),
        None => format!("id:{} {}", event.source(), event.id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_before_the_source_and_the_id() {
        let event = CloudEvent::builder("/shop", "ordered").build().unwrap();
        assert_eq!(id_of(&event), format!("id:/shop {}", event.id()));
        let event = CloudEvent::builder("/shop", "ordered").idempotency_key("k").build().unwrap();
        assert_eq!(id_of(&event), "key:k");
    }

    #[test]
    fn the_value_has_the_form_that_is_set() {
        let event = CloudEvent::builder("/shop", "ordered").json(&7).build().unwrap();
        let value = |form| Taker::new(form).unwrap().value_of(&event).unwrap();
        assert_eq!(value(ValueForm::Data), b"7");
        assert_eq!(CloudEvent::decode(&value(ValueForm::Protobuf)).unwrap(), event);
        let json: serde_json::Value = serde_json::from_slice(&value(ValueForm::Json)).unwrap();
        assert_eq!((&json["source"], &json["data"]), (&"/shop".into(), &7.into()));
    }
}
