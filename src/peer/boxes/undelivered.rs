//! What becomes of the events of a closed stream, in turns of the stream's eventbox.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sqlx::Pool;

use crate::admin::{self, MAX_IDS, Operator};
use crate::error::{BoxError, Result};
use crate::eventbox::{Event, EventId, Outcome, Reducer, reduce_batch};
use crate::peer::boxes::door::{Emission, Fate};
use crate::peer::declare::mapping::ArrivalFields;
use crate::peer::declare::template::Template;
use crate::peer::stream::facts::StreamFacts;
use crate::peer::stream::id::StreamId;
use crate::recipient::Recipient;
use crate::store::Backend;

/// Events of one closed stream that one turn takes.
const DISPOSED_TOGETHER: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

/// Does with the oldest events of a closed stream what the mapping says. Returns the number of events.
pub(in crate::peer) async fn dispose<B: Backend>(pool: &Pool<B>, of: &Recipient, fate: &Fate) -> Result<usize> {
    match fate {
        Fate::Quarantine { reason } => {
            let limit = u32::try_from(MAX_IDS).unwrap_or(u32::MAX).min(DISPOSED_TOGETHER.get());
            let events = admin::events(pool, of, None, limit).await?;
            let ids: Vec<EventId> = events.iter().map(Event::id).collect();
            if ids.is_empty() {
                return Ok(0);
            }
            let moved = Operator::unnamed(pool).quarantine(of, &ids, reason).await?.touched;
            Ok(usize::try_from(moved).unwrap_or(usize::MAX))
        }
        Fate::MoveTo(_) | Fate::TellOf { .. } => {
            let turn = reduce_batch(pool, of, &Forward(fate.clone()), DISPOSED_TOGETHER).await?;
            Ok(turn.consumed)
        }
    }
}

/// Moves events to other recipients: a turn consumes and emits them in one transaction.
struct Forward(Fate);

impl Reducer for Forward {
    type State = ();

    fn reduce(&self, _of: &Recipient, events: &[Event], (): ()) -> Result<Outcome<()>, BoxError> {
        let moved: Vec<_> = events.iter().map(|event| self.moved(event)).collect::<Result<_, BoxError>>()?;
        Ok(Outcome::stay().consuming(events).emitting(moved.into_iter().flatten()))
    }
}

impl Forward {
    fn moved(&self, event: &Event) -> Result<Option<Emission>, BoxError> {
        Ok(match &self.0 {
            Fate::Quarantine { .. } => None,
            Fate::MoveTo(to) => Some((to.clone(), same(event))),
            Fate::TellOf { peer, stream, to } => {
                Some((recipient_of(to, peer, stream, event)?, Event::new(told(event, peer, stream)).caused_by(event)))
            }
        })
    }
}

/// Returns an event with the same content. It has no name, because its name is remembered for the old stream only.
fn same(event: &Event) -> Event {
    let copy = Event::new(event.value().to_vec()).caused_by(event);
    match event.traceparent() {
        Some(traceparent) => copy.traced(traceparent),
        None => copy,
    }
}

/// Returns the value that tells a recipient of an event that was not sent.
fn told(event: &Event, peer: &str, stream: &str) -> String {
    let told = match std::str::from_utf8(event.value()) {
        Ok(text) => json!({"undelivered": text, "peer": peer, "stream": stream}),
        Err(_) => json!({"undelivered_base64": STANDARD.encode(event.value()), "peer": peer, "stream": stream}),
    };
    told.to_string()
}

fn recipient_of(to: &Template, peer: &str, stream: &str, event: &Event) -> Result<Recipient, BoxError> {
    let (stream, facts) = (StreamId::new(stream)?, StreamFacts::new());
    let json = if to.reads_json() { event.json().ok() } else { None };
    let fields = ArrivalFields { peer, stream: &stream, facts: &facts, own: &[], json };
    Ok(to.fill(&fields)?)
}
