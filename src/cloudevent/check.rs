//! The rules for every event, both from the builder and from the wire.

use std::ops::RangeInclusive;

use fluent_uri::{Uri, UriRef};
use prost_types::Timestamp;

use super::CloudEventError;
use super::wire;
use super::wire::cloud_event::CloudEventAttributeValue;
use super::wire::cloud_event::cloud_event_attribute_value::Attr;

/// Names of the fixed fields of the message; an attribute must not have them.
const FIELDS: [&str; 5] = ["data", "id", "source", "specversion", "type"];

/// The seconds that a protobuf timestamp can hold: the years 1 to 9999.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The nanoseconds that a protobuf timestamp can hold.
const NANOSECONDS: RangeInclusive<i32> = 0..=999_999_999;

/// Refuses an event that the database, the protobuf format or a receiver refuses.
///
/// The error names the attribute.
pub(super) fn check(event: &wire::CloudEvent) -> Result<(), CloudEventError> {
    if UriRef::parse(event.source.as_str()).is_err() {
        return Err(CloudEventError::InvalidSource { text: event.source.clone() });
    }
    if event.r#type.trim().is_empty() {
        return Err(CloudEventError::EmptyType);
    }
    check_text("id", &event.id)?;
    check_text("type", &event.r#type)?;
    event.attributes.iter().try_for_each(|(name, value)| check_attribute(name, value))
}

/// Refuses the name of a fixed field, and a name that does not consist of lower-case letters and digits.
pub(super) fn check_name(name: &str) -> Result<(), CloudEventError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(CloudEventError::InvalidExtensionName { name: name.to_owned() });
    }
    if FIELDS.contains(&name) {
        return Err(CloudEventError::ReservedExtension { name: name.to_owned() });
    }
    Ok(())
}

fn check_attribute(name: &str, value: &CloudEventAttributeValue) -> Result<(), CloudEventError> {
    check_name(name)?;
    let Some(attr) = &value.attr else { return Err(invalid(name, "it has no value")) };
    match (name, attr) {
        ("dataschema", Attr::CeUri(text) | Attr::CeUriRef(text) | Attr::CeString(text)) => check_schema(text),
        ("dataschema", _) => Err(invalid(name, "its value is not a URI")),
        ("time" | "recordedtime", Attr::CeTimestamp(time)) => check_time(name, time),
        ("time" | "recordedtime", _) => Err(invalid(name, "its value is not a timestamp")),
        ("datacontenttype", Attr::CeString(text)) => check_content_type(text),
        ("subject" | "idempotencykey" | "seqnum" | "seqepoch" | "emitter", Attr::CeString(text)) => {
            check_text(name, text)
        }
        ("datacontenttype" | "subject" | "idempotencykey" | "seqnum" | "seqepoch" | "emitter", _) => {
            Err(invalid(name, "its value is not a string"))
        }
        (_, attr) => check_value(name, attr),
    }
}

fn check_value(name: &str, attr: &Attr) -> Result<(), CloudEventError> {
    match attr {
        Attr::CeString(text) => check_text(name, text),
        Attr::CeUri(text) if Uri::parse(text.as_str()).is_err() => Err(invalid(name, "its value is not a URI")),
        Attr::CeUriRef(text) if UriRef::parse(text.as_str()).is_err() => {
            Err(invalid(name, "its value is not a URI reference"))
        }
        Attr::CeTimestamp(time) => check_time(name, time),
        Attr::CeUri(_) | Attr::CeUriRef(_) | Attr::CeBoolean(_) | Attr::CeInteger(_) | Attr::CeBytes(_) => Ok(()),
    }
}

fn check_text(name: &str, text: &str) -> Result<(), CloudEventError> {
    if text.contains('\0') { Err(invalid(name, "its value contains a NUL character")) } else { Ok(()) }
}

fn check_schema(text: &str) -> Result<(), CloudEventError> {
    match UriRef::parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(CloudEventError::InvalidDataSchema { text: text.to_owned() }),
    }
}

fn check_content_type(text: &str) -> Result<(), CloudEventError> {
    let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim() == text;
    match text.split_once('/') {
        Some((kind, form)) if printable && !kind.is_empty() && !form.is_empty() => Ok(()),
        _ => Err(invalid("datacontenttype", "its value is not a media type such as application/json")),
    }
}

fn check_time(name: &str, time: &Timestamp) -> Result<(), CloudEventError> {
    if !SECONDS.contains(&time.seconds) || !NANOSECONDS.contains(&time.nanos) {
        return Err(invalid(name, "its time is not in the years 1 to 9999"));
    }
    if name == "recordedtime" && time.seconds < 0 {
        return Err(invalid(name, "its time is before 1970"));
    }
    Ok(())
}

pub(super) fn invalid(attribute: &str, problem: &'static str) -> CloudEventError {
    CloudEventError::InvalidAttribute { attribute: attribute.to_owned(), problem }
}
