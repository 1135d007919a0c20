//! `cloudevents`: one CloudEvent a message, in the JSON event format inside the eventbox.

use bytes::Bytes;
use serde::Deserialize;

use super::json_text::{check, compact, is_blank};
use super::{Codec, Decoded, structured};
use crate::cloudevent::CloudEvent;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const NAME: &str = "cloudevents";
pub(super) const JSON_CONTENT_TYPE: &str = "application/cloudevents+json";
pub(super) const PROTOBUF_CONTENT_TYPE: &str = "application/cloudevents+protobuf";

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CloudEventsSettings {
    mode: Mode,
}

/// The form of a message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// The JSON event format, in which the whole event is one document.
    #[default]
    Json,
    /// The protobuf event format.
    Protobuf,
}

impl CloudEventsSettings {
    pub(super) fn is_protobuf(&self) -> bool {
        self.mode == Mode::Protobuf
    }
}

/// The codec.
pub(super) struct CloudEvents {
    protobuf: bool,
}

impl CloudEvents {
    pub(super) fn new(protobuf: bool) -> Self {
        CloudEvents { protobuf }
    }

    /// Returns the value and the event of a message.
    fn read(&self, message: &Bytes) -> Result<(Bytes, String), String> {
        // A source is a URI reference and so has no space: two events never have the same text.
        let id_of = |event: &CloudEvent| format!("{} {}", event.source(), event.id());
        if self.protobuf {
            let event = CloudEvent::decode(message).map_err(|error| error.to_string())?;
            let id = id_of(&event);
            return Ok((structured::write(event)?.into(), id));
        }
        let text = check(message)?;
        let event = structured::read(text)?;
        Ok((message.slice_ref(text.as_bytes()), id_of(&event)))
    }

    fn write(&self, value: &[u8]) -> Result<Bytes, String> {
        let text = check(value)?;
        let event = structured::read(text)?;
        Ok(if self.protobuf { event.encode() } else { compact(text) }.into())
    }
}

impl Codec for CloudEvents {
    fn content_type(&self) -> &'static str {
        if self.protobuf { PROTOBUF_CONTENT_TYPE } else { JSON_CONTENT_TYPE }
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        if chunk.bytes.is_empty() || (!self.protobuf && is_blank(&chunk.bytes)) {
            return Ok(());
        }
        let (value, id) = self.read(&chunk.bytes).map_err(|problem| FramingError::invalid(NAME, problem))?;
        out.push(Decoded { value, id: Some(id), ingest_ns: chunk.ingest_ns });
        Ok(())
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        out.push(self.write(value).map_err(|problem| FramingError::unwritable(NAME, problem))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::cloudevent::CloudEventBuilder;

    fn builder() -> CloudEventBuilder {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        CloudEvent::builder("/shop", "ordered").subject("7").time(time).extension("retries", 3).extension("last", true)
    }

    fn decode(protobuf: bool, message: impl Into<Bytes>) -> Result<Option<Decoded>, FramingError> {
        let mut out = Vec::new();
        CloudEvents::new(protobuf).decode(Chunk::new(message, 9), &mut out)?;
        Ok(out.pop())
    }

    fn encode(protobuf: bool, value: &[u8]) -> Result<Bytes, FramingError> {
        let mut out = Vec::new();
        CloudEvents::new(protobuf).encode(value, &mut out)?;
        Ok(out.remove(0))
    }

    #[test]
    fn an_event_goes_from_protobuf_to_json_and_back_unchanged() {
        let payloads = [
            builder().payload(b"\xff\0".to_vec()).data_schema("https://shop/order"),
            builder().payload_as("text/csv", "a,b"),
            builder().json(&serde_json::json!({ "items": [1.5, "ü"] })),
            builder().payload_as("application/vnd.shop+json", r#"{"n":123456789012345678901234567890}"#),
            builder().payload_as("application/json", "not JSON"),
        ];
        for payload in payloads {
            let event = payload.build().unwrap();
            let decoded = decode(true, event.encode()).unwrap().unwrap();
            assert_eq!(decoded.id, Some(format!("/shop {}", event.id())));
            assert_eq!(CloudEvent::decode(&encode(true, &decoded.value).unwrap()).unwrap(), event);
            let as_json = encode(false, &decoded.value).unwrap();
            assert_eq!(decode(false, as_json).unwrap().unwrap(), decoded, "both modes have the same value");
        }
    }

    #[test]
    fn the_json_format_has_attributes_and_data_as_its_specification_says() {
        let event = builder().recorded_time(SystemTime::UNIX_EPOCH).json(&[1, 2]).build().unwrap();
        let value = decode(true, event.encode()).unwrap().unwrap().value;
        let expected = format!(r#"{{"specversion":"1.0","id":"{}","source":"/shop","type":"ordered","#, event.id())
            + r#""datacontenttype":"application/json","#
            + r#""last":true,"recordedtime":"1970-01-01T00:00:00Z","retries":3,"subject":"7","#
            + r#""time":"2023-11-14T22:13:20.000000005Z","data":[1,2]}"#;
        assert_eq!(String::from_utf8(value.to_vec()).unwrap(), expected);
    }

    #[test]
    fn a_message_in_json_keeps_its_text() {
        let text = r#" {"type":"t","specversion":"1.0","source":"s","id":"1","data":{"n": 1.10},"x":null,"y":-1} "#;
        let decoded = decode(false, text).unwrap().unwrap();
        assert_eq!((decoded.value, decoded.id.as_deref()), (text.trim().into(), Some("s 1")));
        let wire = CloudEvent::decode(&encode(true, text.as_bytes()).unwrap()).unwrap();
        assert_eq!((wire.payload(), wire.event_type()), (br#"{"n":1.10}"#.as_slice(), "t"));
        assert_eq!(decode(false, "\n").unwrap(), None);
        assert_eq!(decode(true, "").unwrap(), None);
    }

    #[test]
    fn what_is_not_a_cloud_event_is_refused() {
        let event = |members: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{members}}}"#);
        assert!(decode(false, event("")).is_ok());
        let wrong = [
            "[]".to_owned(),
            "{}".to_owned(),
            event("").replace("1.0", "0.3"),
            event("").replace(r#""s""#, r#""a b""#),
            event("").replace(r#""id":"1""#, r#""id":1"#),
            event(r#","id":"2""#),
            event(r#","data":1,"data_base64":"aA==""#),
            event(r#","data_base64":"*""#),
            event(r#","Upper":"x""#),
            event(r#","x":1.5"#),
            event(r#","x":{}"#),
            event(r#","time":"yesterday""#),
            event(r#","time":true"#),
            event(r#","subject":"\u0000""#),
        ];
        for text in wrong {
            assert!(decode(false, text.clone()).is_err(), "{text}");
            assert!(encode(true, text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode(true, b"\xff".to_vec()).is_err());
    }

    #[test]
    fn a_payload_that_is_nested_too_deeply_stays_bytes() {
        let nested = format!("{}{}", "[".repeat(120), "]".repeat(120));
        let event = builder().payload_as("application/json", nested).build().unwrap();
        let value = decode(true, event.encode()).unwrap().unwrap().value;
        assert!(value.windows(11).any(|part| part == b"data_base64"));
        assert_eq!(CloudEvent::decode(&encode(true, &value).unwrap()).unwrap(), event);
    }
}
