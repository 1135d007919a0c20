//! CloudEvents in the JSON event format, and from it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fluent_uri::UriRef;
use prost_types::{Any, Timestamp};
use serde_json::value::RawValue;

use super::json_text::{check, compact, depth};
use super::members::{Members, string};
use crate::cloudevent::{CONTENT_TYPE, CloudEvent};
use crate::json::MAX_JSON_DEPTH;
use crate::proto::io::cloudevents::v1 as wire;
use wire::cloud_event::cloud_event_attribute_value::Attr;
use wire::cloud_event::{CloudEventAttributeValue, Data};

/// Reads a checked text.
pub(super) fn read(text: &str) -> Result<CloudEvent, String> {
    let Members(members) = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut event = wire::CloudEvent::default();
    let (mut data, mut data_base64) = (None, None);
    for (name, raw) in members {
        let text = || string(raw).ok_or_else(|| format!("{name:?} is not a string"));
        match name.as_str() {
            _ if raw.get() == "null" => {}
            "specversion" => event.spec_version = text()?,
            "id" => event.id = text()?,
            "source" => event.source = text()?,
            "type" => event.r#type = text()?,
            "data" => data = Some(raw),
            "data_base64" => data_base64 = Some(STANDARD.decode(text()?).map_err(|error| format!("{name}: {error}"))?),
            _ => {
                let attr = Some(attribute(&name, raw)?);
                event.attributes.insert(name, CloudEventAttributeValue { attr });
            }
        }
    }
    event.data = match (data, data_base64) {
        (Some(_), Some(_)) => return Err("it has both data and data_base64".to_owned()),
        (Some(data), None) => Some(from_json(data, content_type(&event))),
        (None, Some(bytes)) => Some(from_bytes(bytes, &event)),
        (None, None) => None,
    };
    CloudEvent::from_wire(event).map_err(|error| error.to_string())
}

fn attribute(name: &str, raw: &RawValue) -> Result<Attr, String> {
    let bad = || format!("the attribute {name:?} is not a string, a boolean or an integer of 32 bits");
    match (name, raw.get()) {
        (_, "true") => Ok(Attr::CeBoolean(true)),
        (_, "false") => Ok(Attr::CeBoolean(false)),
        ("time" | "recordedtime", _) => {
            let time = string(raw).and_then(|text| text.parse::<Timestamp>().ok());
            time.map(Attr::CeTimestamp).ok_or_else(|| format!("the attribute {name:?} is not a time of RFC 3339"))
        }
        ("dataschema", _) => string(raw).map(Attr::CeUri).ok_or_else(bad),
        (_, text) if text.starts_with('"') => string(raw).map(Attr::CeString).ok_or_else(bad),
        (_, text) => text.parse().map(Attr::CeInteger).map_err(|_| bad()),
    }
}

fn text_of<'a>(event: &'a wire::CloudEvent, name: &str) -> Option<&'a str> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => Some(text),
        _ => None,
    }
}

fn content_type(event: &wire::CloudEvent) -> Option<&str> {
    text_of(event, "datacontenttype")
}

/// Returns whether the payload is JSON. It is, when nothing is said.
fn is_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

fn from_json(data: &RawValue, content_type: Option<&str>) -> Data {
    match string(data) {
        Some(text) if !is_json(content_type) => Data::TextData(text),
        _ => Data::BinaryData(compact(data.get()).into()),
    }
}

fn from_bytes(bytes: Vec<u8>, event: &wire::CloudEvent) -> Data {
    match content_type(event) {
        Some(CONTENT_TYPE) => {
            let type_url = text_of(event, "dataschema").unwrap_or_default().to_owned();
            Data::ProtoData(Any { type_url, value: bytes })
        }
        _ => Data::BinaryData(bytes.into()),
    }
}

/// Writes an event.
pub(super) fn write(event: CloudEvent) -> Result<Vec<u8>, String> {
    let mut event = event.into_wire();
    keep_type_url(&mut event);
    let mut out = Object { text: Vec::with_capacity(256) };
    out.member("specversion", &event.spec_version)?;
    out.member("id", &event.id)?;
    out.member("source", &event.source)?;
    out.member("type", &event.r#type)?;
    for (name, value) in &event.attributes {
        match &value.attr {
            Some(Attr::CeBoolean(value)) => out.member(name, value)?,
            Some(Attr::CeInteger(value)) => out.member(name, value)?,
            Some(Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text)) => out.member(name, text)?,
            Some(Attr::CeBytes(bytes)) => out.member(name, &STANDARD.encode(bytes))?,
            Some(Attr::CeTimestamp(time)) => out.member(name, &time.to_string())?,
            None => {}
        }
    }
    let json = is_json(content_type(&event));
    match &event.data {
        Some(Data::ProtoData(any)) => out.member("data_base64", &STANDARD.encode(&any.value))?,
        Some(Data::TextData(text)) if !json => out.member("data", text)?,
        Some(Data::TextData(text)) => out.data(text.as_bytes(), json)?,
        Some(Data::BinaryData(bytes)) => out.data(bytes, json)?,
        None => {}
    }
    out.text.push(b'}');
    Ok(out.text)
}

/// Keeps the type of a protobuf payload as the schema of an event that has none.
fn keep_type_url(event: &mut wire::CloudEvent) {
    if let Some(Data::ProtoData(any)) = &event.data
        && !any.type_url.is_empty()
        && UriRef::parse(any.type_url.as_str()).is_ok()
    {
        let attr = Some(Attr::CeUri(any.type_url.clone()));
        event.attributes.entry("dataschema".to_owned()).or_insert(CloudEventAttributeValue { attr });
    }
}

/// A JSON object that is being written.
struct Object {
    text: Vec<u8>,
}

impl Object {
    fn name(&mut self, name: &str) -> Result<(), String> {
        self.text.push(if self.text.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut self.text, name).map_err(|error| error.to_string())?;
        self.text.push(b':');
        Ok(())
    }

    fn member(&mut self, name: &str, value: &(impl serde::Serialize + ?Sized)) -> Result<(), String> {
        self.name(name)?;
        serde_json::to_writer(&mut self.text, value).map_err(|error| error.to_string())
    }

    /// Writes a payload: as JSON if it is JSON, which the event nests one level deeper.
    fn data(&mut self, bytes: &[u8], json: bool) -> Result<(), String> {
        match check(bytes) {
            Ok(text) if json && depth(text) < MAX_JSON_DEPTH => {
                self.name("data")?;
                self.text.extend(compact(text));
                Ok(())
            }
            _ => self.member("data_base64", &STANDARD.encode(bytes)),
        }
    }
}
