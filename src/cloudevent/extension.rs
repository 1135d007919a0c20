//! Values of extension attributes.

use std::time::SystemTime;

use bytes::Bytes;

use super::timestamp;
use super::wire::cloud_event::CloudEventAttributeValue;
use super::wire::cloud_event::cloud_event_attribute_value::Attr;

/// The value of an extension attribute.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ExtensionValue {
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i32),
    /// A text.
    String(String),
    /// Bytes.
    Bytes(Bytes),
    /// An absolute URI.
    Uri(String),
    /// A URI reference.
    UriRef(String),
    /// A time.
    Timestamp(SystemTime),
}

impl ExtensionValue {
    pub(super) fn into_attr(self) -> Attr {
        match self {
            ExtensionValue::Boolean(value) => Attr::CeBoolean(value),
            ExtensionValue::Integer(value) => Attr::CeInteger(value),
            ExtensionValue::String(value) => Attr::CeString(value),
            ExtensionValue::Bytes(value) => Attr::CeBytes(value),
            ExtensionValue::Uri(value) => Attr::CeUri(value),
            ExtensionValue::UriRef(value) => Attr::CeUriRef(value),
            ExtensionValue::Timestamp(value) => Attr::CeTimestamp(timestamp(value)),
        }
    }

    pub(super) fn from_wire(value: &CloudEventAttributeValue) -> Option<Self> {
        Some(match value.attr.as_ref()? {
            Attr::CeBoolean(value) => ExtensionValue::Boolean(*value),
            Attr::CeInteger(value) => ExtensionValue::Integer(*value),
            Attr::CeString(value) => ExtensionValue::String(value.clone()),
            Attr::CeBytes(value) => ExtensionValue::Bytes(value.clone()),
            Attr::CeUri(value) => ExtensionValue::Uri(value.clone()),
            Attr::CeUriRef(value) => ExtensionValue::UriRef(value.clone()),
            Attr::CeTimestamp(value) => ExtensionValue::Timestamp(SystemTime::try_from(*value).ok()?),
        })
    }
}

impl From<bool> for ExtensionValue {
    fn from(value: bool) -> Self {
        ExtensionValue::Boolean(value)
    }
}

impl From<i32> for ExtensionValue {
    fn from(value: i32) -> Self {
        ExtensionValue::Integer(value)
    }
}

impl From<&str> for ExtensionValue {
    fn from(value: &str) -> Self {
        ExtensionValue::String(value.to_owned())
    }
}

impl From<String> for ExtensionValue {
    fn from(value: String) -> Self {
        ExtensionValue::String(value)
    }
}

impl From<Bytes> for ExtensionValue {
    fn from(value: Bytes) -> Self {
        ExtensionValue::Bytes(value)
    }
}

impl From<SystemTime> for ExtensionValue {
    fn from(value: SystemTime) -> Self {
        ExtensionValue::Timestamp(value)
    }
}
