//! CloudEvents in the form that Chip Ingress accepts.

mod attributes;
mod builder;
mod check;
mod digest;
mod extension;
mod resource;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;

use crate::proto::io::cloudevents::v1 as wire;
use wire::cloud_event::cloud_event_attribute_value::Attr;
use wire::cloud_event::{CloudEventAttributeValue, Data};

pub use attributes::{AttributeValue, Attributes};
pub use builder::{CloudEventBuilder, JSON_CONTENT_TYPE};
#[cfg(feature = "emitter")]
pub(crate) use digest::hex;
pub(crate) use digest::turn_key;
pub use extension::ExtensionValue;
pub use resource::{RESERVED_NAMES, resource_names, resource_value};

/// The version of the CloudEvents specification that every event has.
pub const SPEC_VERSION: &str = "1.0";

/// The default content type of a payload.
pub const CONTENT_TYPE: &str = "application/protobuf";

/// A message to the outside, with a domain (`source`), an entity (`type`) and a payload.
///
/// It is a CloudEvent 1.0 in the form that Chip Ingress expects. Build it with [`CloudEvent::builder`]:
///
/// - A protobuf payload travels as `proto_data`, any other payload as `binary_data`.
/// - The builder always sets the time of recording.
/// - An idempotency key lets a receiver drop the copies that at-least-once delivery makes.
///
/// # Examples
///
/// ```
/// use eventbox::CloudEvent;
///
/// let event = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").subject("N14228").build()?;
/// assert_eq!(event.source(), "flights");
/// assert_eq!(event.event_type(), "flight.departed");
/// assert_eq!(event.payload(), b"UA 1545");
/// assert_eq!(CloudEvent::decode(&event.encode())?, event);
/// # Ok::<(), eventbox::cloudevent::CloudEventError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct CloudEvent(wire::CloudEvent);

/// An error of an event that cannot be sent, or of bytes that are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloudEventError {
    /// The source (domain) is empty.
    #[error("the source (domain) of the event is empty")]
    EmptySource,
    /// The source (domain) is not a URI reference.
    #[error("the source (domain) {text:?} of the event is not a URI reference")]
    InvalidSource {
        /// The given value.
        text: String,
    },
    /// The type (entity) is empty.
    #[error("the type (entity) of the event is empty")]
    EmptyType,
    /// The data schema is not a URI reference.
    #[error("the data schema {text:?} of the event is not a URI reference")]
    InvalidDataSchema {
        /// The given value.
        text: String,
    },
    /// The name of an extension is empty, or has characters other than `a` to `z` and `0` to `9`.
    #[error("{name:?} is not the name of an extension: use lower-case letters and digits only")]
    InvalidExtensionName {
        /// The given value.
        name: String,
    },
    /// The name of an extension is reserved, because the event uses it for something else.
    #[error("the extension name {name:?} is reserved")]
    ReservedExtension {
        /// The given value.
        name: String,
    },
    /// An attribute has a value that the database, the protobuf format or the receiver refuses.
    #[error("the attribute {attribute:?} of the event cannot be sent: {problem}")]
    InvalidAttribute {
        /// The name of the attribute.
        attribute: String,
        /// The problem with the value.
        problem: &'static str,
    },
    /// The payload cannot be written as JSON.
    #[error("the payload of the event cannot be written as JSON: {problem}")]
    Json {
        /// The problem.
        problem: String,
    },
    /// A list of keys and values ends with a key.
    #[error("the attribute {key:?} has no value")]
    DanglingKey {
        /// The last key.
        key: String,
    },
    /// The attributes have no source.
    #[error("source/beholder_domain not found in provided key/value attributes")]
    SourceNotFound,
    /// The attributes have no type.
    #[error("type/beholder_entity not found in provided key/value attributes")]
    TypeNotFound,
    /// The bytes or the message are not a CloudEvent.
    #[error("could not convert proto to event: {problem}")]
    NotAnEvent {
        /// The problem with the bytes or the message.
        problem: String,
    },
}

impl CloudEvent {
    /// Returns the builder of an event with a domain (the `source`) and an entity (the `type`).
    pub fn builder(domain: impl Into<String>, entity: impl Into<String>) -> CloudEventBuilder {
        CloudEventBuilder::new(domain.into(), entity.into())
    }

    /// Reads an event from its wire form. The payload may be in any of the three fields for data.
    ///
    /// # Errors
    ///
    /// - [`CloudEventError::NotAnEvent`] when the bytes are not an event;
    /// - the errors of [`from_wire`](Self::from_wire).
    pub fn decode(bytes: &[u8]) -> Result<Self, CloudEventError> {
        let decoded = wire::CloudEvent::decode(bytes);
        Self::from_wire(decoded.map_err(|error| CloudEventError::NotAnEvent { problem: error.to_string() })?)
    }

    /// Checks a message of [`proto`](crate::proto) and returns it as an event.
    ///
    /// The method refuses everything that [`build`](CloudEventBuilder::build) refuses. It removes an empty subject and
    /// an empty idempotency key. It sets the content type of `proto_data` to [`CONTENT_TYPE`].
    ///
    /// # Errors
    ///
    /// - [`CloudEventError::NotAnEvent`] when the id, the source or the type is missing, or the version is not
    ///   [`SPEC_VERSION`];
    /// - [`CloudEventError::InvalidAttribute`] and the other errors of `build`, with the name of the attribute.
    pub fn from_wire(mut event: wire::CloudEvent) -> Result<Self, CloudEventError> {
        let required = [("id", &event.id), ("source", &event.source), ("type", &event.r#type)];
        if let Some((what, _)) = required.iter().find(|(_, text)| text.is_empty()) {
            return Err(CloudEventError::NotAnEvent { problem: format!("it has no {what}") });
        }
        if event.spec_version != SPEC_VERSION {
            let problem = format!("its version is {:?}, not {SPEC_VERSION}", event.spec_version);
            return Err(CloudEventError::NotAnEvent { problem });
        }
        for name in ["subject", "idempotencykey"] {
            if event
                .attributes
                .get(name)
                .is_some_and(|value| matches!(&value.attr, Some(Attr::CeString(text)) if text.is_empty()))
            {
                event.attributes.remove(name);
            }
        }
        check::check(&event)?;
        if matches!(event.data, Some(Data::ProtoData(_))) {
            event.attributes.insert("datacontenttype".to_owned(), value(Attr::CeString(CONTENT_TYPE.to_owned())));
        }
        Ok(CloudEvent(event))
    }

    /// Returns the event of an unchanged message from [`into_wire`](Self::into_wire), without checks.
    #[cfg(feature = "emitter")]
    pub(crate) fn trusted(event: wire::CloudEvent) -> Self {
        CloudEvent(event)
    }

    /// Returns the wire form as a message.
    #[must_use]
    pub fn into_wire(self) -> wire::CloudEvent {
        self.0
    }

    /// Returns the wire form as bytes. Equal events have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Returns the length of the wire form, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    /// Returns the id of the event. The builder sets a random UUID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Returns the domain.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns the entity.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.0.r#type
    }

    /// Returns the subject: the thing that the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text("subject")
    }

    /// Returns the schema of the payload, a URI reference.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.text("dataschema")
    }

    /// Returns the content type of the payload.
    #[must_use]
    pub fn data_content_type(&self) -> Option<&str> {
        self.text("datacontenttype")
    }

    /// Returns the time when the event happened, or `None` when the sender did not set it.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        self.timestamp("time")
    }

    /// Returns the time when the event was recorded. The builder sets it in whole milliseconds.
    #[must_use]
    pub fn recorded_time(&self) -> Option<SystemTime> {
        self.timestamp("recordedtime")
    }

    /// Returns the key by which a receiver recognises the event.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.text("idempotencykey")
    }

    /// Returns the value of the extension with this name.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<ExtensionValue> {
        self.0.attributes.get(name).and_then(ExtensionValue::from_wire)
    }

    /// Returns the names of all attributes except id, source, type and version, in byte order.
    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        self.0.attributes.keys().map(String::as_str)
    }

    /// Returns the payload; empty when the event has no payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0.data {
            Some(Data::ProtoData(any)) => &any.value,
            Some(Data::BinaryData(bytes)) => bytes,
            Some(Data::TextData(text)) => text.as_bytes(),
            None => &[],
        }
    }

    /// Sets an extension that the system owns, and replaces its earlier value.
    pub(crate) fn stamp(&mut self, name: &str, text: String) {
        self.0.attributes.insert(name.to_owned(), value(Attr::CeString(text)));
    }

    /// Sets the idempotency key, unless the event has a key already.
    pub(crate) fn default_key(&mut self, key: impl FnOnce(&Self) -> String) {
        if self.idempotency_key().is_none_or(str::is_empty) {
            let key = key(self);
            self.stamp("idempotencykey", key);
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.0.attributes.get(name)?.attr.as_ref()? {
            Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => Some(text),
            _ => None,
        }
    }

    fn timestamp(&self, name: &str) -> Option<SystemTime> {
        match self.0.attributes.get(name)?.attr.as_ref()? {
            Attr::CeTimestamp(stamp) => SystemTime::try_from(*stamp).ok(),
            _ => None,
        }
    }
}

impl fmt::Debug for CloudEvent {
    /// Writes the event without its payload, because the payload may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudEvent")
            .field("id", &self.0.id)
            .field("source", &self.0.source)
            .field("type", &self.0.r#type)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

fn value(attr: Attr) -> CloudEventAttributeValue {
    CloudEventAttributeValue { attr: Some(attr) }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// Cuts a time to whole milliseconds. Returns 1970 for an earlier time.
fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000)
}

/// Returns a protobuf payload without a copy of its bytes.
fn any(type_url: String, payload: Bytes) -> Data {
    Data::ProtoData(prost_types::Any { type_url, value: payload.into() })
}
