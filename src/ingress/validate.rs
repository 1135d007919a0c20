//! The check that an event is a valid CloudEvent.

use crate::proto::io::cloudevents::v1::CloudEvent;
use crate::proto::io::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use crate::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;

/// The only version of the CloudEvents specification that the server accepts.
const SPEC_VERSION: &str = "1.0";

/// Names of the fixed fields of the message; an attribute must not have them.
const RESERVED: [&str; 5] = ["data", "id", "source", "specversion", "type"];

/// The attribute by which the server recognises copies of an event.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotencykey";

/// Returns the value of a string attribute, or `None` when it is missing or has another type.
pub(super) fn attribute_text<'a>(event: &'a CloudEvent, name: &str) -> Option<&'a str> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeString(text) => Some(text),
        _ => None,
    }
}

/// Checks an event. The error is a text for the sender of the event.
pub(super) fn validate(event: &CloudEvent) -> Result<(), String> {
    if event.id.is_empty() {
        return Err("the id is missing".to_owned());
    }
    if event.source.is_empty() {
        return Err("the source is missing".to_owned());
    }
    if fluent_uri::UriRef::parse(event.source.as_str()).is_err() {
        return Err(format!("the source {:?} is not a URI reference", event.source));
    }
    if event.spec_version.is_empty() {
        return Err("the specversion is missing".to_owned());
    }
    if event.spec_version != SPEC_VERSION {
        return Err(format!("the specversion is {:?}, not {SPEC_VERSION:?}", event.spec_version));
    }
    if event.r#type.is_empty() {
        return Err("the type is missing".to_owned());
    }
    event.attributes.iter().try_for_each(|(name, value)| validate_attribute(name, value))
}

fn validate_attribute(name: &str, value: &CloudEventAttributeValue) -> Result<(), String> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(format!("the attribute name {name:?} is not made of a-z and 0-9"));
    }
    if RESERVED.contains(&name) {
        return Err(format!("the attribute {name:?} belongs into the field of that name"));
    }
    let Some(value) = &value.attr else {
        return Err(format!("the attribute {name:?} has no value"));
    };
    match (name, value) {
        (IDEMPOTENCY_KEY | "subject" | "datacontenttype", Attr::CeString(text)) if text.is_empty() => {
            Err(format!("the attribute {name:?} is empty"))
        }
        (IDEMPOTENCY_KEY, Attr::CeString(text)) if text.contains('\0') => {
            Err(format!("the attribute {name:?} contains a NUL character"))
        }
        (IDEMPOTENCY_KEY | "subject" | "datacontenttype", Attr::CeString(_)) => Ok(()),
        (IDEMPOTENCY_KEY | "subject" | "datacontenttype", _) => Err(format!("the attribute {name:?} is not a string")),
        // Older senders send the URI of the schema as a string.
        ("dataschema", Attr::CeUri(_) | Attr::CeString(_)) => Ok(()),
        ("dataschema", _) => Err(format!("the attribute {name:?} is not a URI")),
        ("time", Attr::CeTimestamp(_)) => Ok(()),
        ("time", _) => Err(format!("the attribute {name:?} is not a timestamp")),
        _ => Ok(()),
    }
}
