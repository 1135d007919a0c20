//! The JSON form of a kept event.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::log::KeptEvent;
use crate::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;

const MICROSECONDS: i64 = 1_000_000;

impl KeptEvent {
    /// Returns the event as one JSON object, in the form that `eventbox ingress log --json` writes.
    ///
    /// | member | value |
    /// | --- | --- |
    /// | `sequence`, `key`, `copies`, `conflicts` | the fields of [`KeptEvent`] |
    /// | `received_at` | the time of [`received_at`](Self::received_at), in RFC 3339 |
    /// | `id`, `source`, `type`, `subject` | the texts of the event with these names |
    /// | `attributes` | the attributes by name; bytes in base64, times in RFC 3339 |
    /// | `data_base64` | the payload in base64 |
    /// | `data_text` | the payload as text, only when it is UTF-8 |
    #[must_use]
    pub fn to_json(&self) -> Value {
        let payload = self.payload();
        let attributes =
            self.event.attributes.iter().map(|(name, value)| (name.clone(), attribute(value.attr.as_ref())));
        let mut object = json!({
            "sequence": self.sequence,
            "received_at": self.received_at(),
            "key": self.key,
            "copies": self.copies,
            "conflicts": self.conflicts,
            "id": self.event.id,
            "source": self.event.source,
            "type": self.event.r#type,
            "subject": self.subject(),
            "attributes": attributes.collect::<Map<_, _>>(),
            "data_base64": BASE64_STANDARD.encode(&payload),
        });
        if let (Ok(text), Some(members)) = (std::str::from_utf8(&payload), object.as_object_mut()) {
            members.insert("data_text".to_owned(), text.into());
        }
        object
    }

    /// Returns the time when the server wrote the event, in RFC 3339.
    #[must_use]
    pub fn received_at(&self) -> String {
        let nanos = self.received_at_us.rem_euclid(MICROSECONDS) * 1000;
        let seconds = self.received_at_us.div_euclid(MICROSECONDS);
        prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default() }.to_string()
    }
}

fn attribute(value: Option<&Attr>) -> Value {
    match value {
        None => Value::Null,
        Some(Attr::CeBoolean(value)) => (*value).into(),
        Some(Attr::CeInteger(value)) => (*value).into(),
        Some(Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text)) => text.as_str().into(),
        Some(Attr::CeBytes(bytes)) => BASE64_STANDARD.encode(bytes).into(),
        Some(Attr::CeTimestamp(time)) => time.to_string().into(),
    }
}
