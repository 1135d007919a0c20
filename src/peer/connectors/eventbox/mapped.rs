//! The recipients of events at a hub.

use serde_json::Value;

use super::EventboxConfig;
use super::hub::Sent;
use crate::eventbox::{Event, EventId, MAX_VALUE_BYTES};
use crate::peer::declare::template::Fields;
use crate::peer::{Batch, Session};

/// A batch, with the events that the hub could never take.
pub(super) struct Mapped {
    pub(super) events: Vec<Sent>,
    pub(super) refused: Vec<(EventId, String)>,
}

/// What fills the places of the template.
struct EventFields<'a> {
    peer: &'a str,
    stream: &'a str,
    edge: &'a str,
    name: Option<&'a str>,
    json: Option<Value>,
}

impl Fields for EventFields<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        match name {
            "peer" => Some(self.peer),
            "stream" => Some(self.stream),
            "edge" => Some(self.edge),
            "name" => self.name,
            _ => None,
        }
    }

    fn json(&self) -> Option<&Value> {
        self.json.as_ref()
    }
}

/// Gives each event its recipient and its name at the hub.
pub(super) fn map(config: &EventboxConfig, session: &Session, batch: &Batch) -> Mapped {
    let mut mapped = Mapped { events: Vec::with_capacity(batch.len()), refused: Vec::new() };
    for event in batch.events().iter().map(|event| &event.event) {
        match map_one(config, session.peer(), session.stream().as_str(), event) {
            Ok(sent) => mapped.events.push(sent),
            Err(problem) => mapped.refused.push((event.id(), problem)),
        }
    }
    mapped
}

fn map_one(config: &EventboxConfig, peer: &str, stream: &str, event: &Event) -> Result<Sent, String> {
    if event.value().len() > MAX_VALUE_BYTES {
        return Err(format!("its value has more than {MAX_VALUE_BYTES} bytes"));
    }
    let json = if config.to.reads_json() { serde_json::from_slice(event.value()).ok() } else { None };
    let to = config.to.fill(&EventFields { peer, stream, edge: &config.edge, name: event.name(), json })?;
    let sent = Event::new(event.value().to_vec()).named(format!("{}:{}", config.edge, event.id()));
    let sent = match event.traceparent() {
        Some(traceparent) => sent.traced(traceparent),
        None => sent,
    };
    Ok(Sent { id: event.id(), to, event: sent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_gets_its_recipient_and_a_name_that_a_re_send_has_too() {
        let config = EventboxConfig::new("x.sqlite3", "truck-17", "order/{/id}-{edge}".parse().unwrap());
        let id = uuid::Uuid::from_u128(7);
        let event = |value: &str| Event::new(value.to_owned()).with_id(id);
        let sent = map_one(&config, "hub", "main", &event(r#"{"id":5}"#)).unwrap();
        assert_eq!(sent.to.to_string(), "order/5-truck-17");
        assert_eq!(sent.event.name(), Some(format!("truck-17:{id}").as_str()));
        assert_eq!(sent.event.value(), br#"{"id":5}"#);
        assert!(map_one(&config, "hub", "main", &event("no JSON")).is_err());
        assert!(map_one(&config, "hub", "main", &event("{}")).is_err());
    }
}
