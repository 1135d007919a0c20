//! CloudEvents as Chip Ingress takes them.

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

/// The only version of the CloudEvents specification that is written.
pub const SPEC_VERSION: &str = "1.0";

/// The content type of a payload unless its builder names another.
pub const CONTENT_TYPE: &str = "application/protobuf";

/// A message for the world outside: what happened (`type`) in which domain (`source`), with a payload.
///
/// It is a CloudEvent 1.0 in the shape that Chip Ingress expects: a protobuf payload travels as `proto_data`, any other as
/// `binary_data`. The time of recording is always there. An idempotency key lets a receiver make at-least-once delivery
/// exactly once. Build it with [`CloudEvent::builder`].
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

/// Why something is not a CloudEvent that can be sent.
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
    /// An extension's name has other characters than `a` to `z` and `0` to `9`, or none.
    #[error("{name:?} is not the name of an extension: use lower-case letters and digits only")]
    InvalidExtensionName {
        /// The given value.
        name: String,
    },
    /// An extension's name means something else already.
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
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// A payload could not be written as JSON.
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
    /// No source among the attributes.
    #[error("source/beholder_domain not found in provided key/value attributes")]
    SourceNotFound,
    /// No type among the attributes.
    #[error("type/beholder_entity not found in provided key/value attributes")]
    TypeNotFound,
    /// Bytes that are not a CloudEvent.
    #[error("could not convert proto to event: {problem}")]
    NotAnEvent {
        /// What is wrong with them.
        problem: String,
    },
}

impl CloudEvent {
    /// Begins an event of a domain (the `source`) and an entity (the `type`).
    pub fn builder(domain: impl Into<String>, entity: impl Into<String>) -> CloudEventBuilder {
        CloudEventBuilder::new(domain.into(), entity.into())
    }

    /// Reads an event from its wire form, in any of the three places of a payload.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::NotAnEvent`] when the bytes are not one; else as [`from_wire`](Self::from_wire).
    pub fn decode(bytes: &[u8]) -> Result<Self, CloudEventError> {
        let decoded = wire::CloudEvent::decode(bytes);
        Self::from_wire(decoded.map_err(|error| CloudEventError::NotAnEvent { problem: error.to_string() })?)
    }

    /// Checks a message of [`proto`](crate::proto) and answers it as an event.
    ///
    /// It refuses what [`build`](CloudEventBuilder::build) refuses. An empty subject or idempotency key counts as none.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::NotAnEvent`] when the id, the source, the type or the version is missing;
    /// [`CloudEventError::InvalidAttribute`] and the other errors of `build`, with the name of the attribute.
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

    /// An event that came out of [`into_wire`](Self::into_wire) and was not changed.
    #[cfg(feature = "emitter")]
    pub(crate) fn trusted(event: wire::CloudEvent) -> Self {
        CloudEvent(event)
    }

    /// The wire form, as a message.
    #[must_use]
    pub fn into_wire(self) -> wire::CloudEvent {
        self.0
    }

    /// The wire form, as bytes. Equal events have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// How many bytes [`encode`](Self::encode) gives.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    /// The id of the event: a random UUID of its building.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The domain.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The entity.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.0.r#type
    }

    /// What the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text("subject")
    }

    /// The schema of the payload, a URI reference.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.text("dataschema")
    }

    /// The content type of the payload.
    #[must_use]
    pub fn data_content_type(&self) -> Option<&str> {
        self.text("datacontenttype")
    }

    /// When it happened, if the sender said so.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        self.timestamp("time")
    }

    /// When it was recorded, in whole milliseconds.
    #[must_use]
    pub fn recorded_time(&self) -> Option<SystemTime> {
        self.timestamp("recordedtime")
    }

    /// The key by which a receiver knows the event again.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.text("idempotencykey")
    }

    /// An extension by its name.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<ExtensionValue> {
        self.0.attributes.get(name).and_then(ExtensionValue::from_wire)
    }

    /// The names of all attributes beyond id, source, type and version, in order.
    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        self.0.attributes.keys().map(String::as_str)
    }

    /// The payload; empty when there is none.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0.data {
            Some(Data::ProtoData(any)) => &any.value,
            Some(Data::BinaryData(bytes)) => bytes,
            Some(Data::TextData(text)) => text.as_bytes(),
            None => &[],
        }
    }

    /// Sets an extension that the system itself owns, whatever was there.
    pub(crate) fn stamp(&mut self, name: &str, text: String) {
        self.0.attributes.insert(name.to_owned(), value(Attr::CeString(text)));
    }

    /// Sets the idempotency key unless the sender gave one.
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
    /// Without the payload, which may be secret.
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

/// Cuts what is below a millisecond.
fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000)
}

/// A payload that shares its bytes.
fn any(type_url: String, payload: Bytes) -> Data {
    Data::ProtoData(prost_types::Any { type_url, value: payload.into() })
}
