//! Events from lists of attributes, the form that telemetry code uses.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use super::{CloudEvent, CloudEventError};

/// The value of an attribute, with a type that is known only at run time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A text.
    String(String),
    /// A time.
    Time(SystemTime),
    /// A whole number; no attribute of an event has this type.
    Integer(i64),
    /// True or false; no attribute of an event has this type.
    Boolean(bool),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        AttributeValue::String(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        AttributeValue::String(text)
    }
}

impl From<SystemTime> for AttributeValue {
    fn from(time: SystemTime) -> Self {
        AttributeValue::Time(time)
    }
}

/// Attributes by name, for [`CloudEvent::from_attributes`].
///
/// | name | value |
/// | --- | --- |
/// | `source` or `beholder_domain` | the source, a text; required |
/// | `type` or `beholder_entity` | the type, a text; required |
/// | `subject`, `dataschema`, `idempotencykey` | texts |
/// | `time`, `recordedtime` | times |
///
/// The event ignores other names. A value of another type counts as missing.
///
/// # Examples
///
/// ```
/// use eventbox::{CloudEvent, cloudevent::{Attributes, CloudEventError}};
///
/// let attributes = Attributes::from_list(["beholder_domain", "flights", "beholder_entity", "flight.departed"])?;
/// assert_eq!(CloudEvent::from_attributes(&attributes, "UA 1545")?.source(), "flights");
/// let dangling = Attributes::from_list(["source"]);
/// assert_eq!(dangling, Err(CloudEventError::DanglingKey { key: "source".to_owned() }));
/// # Ok::<(), CloudEventError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(BTreeMap<String, AttributeValue>);

impl Attributes {
    /// Reads attributes from key, value, key, value …; a later value replaces an earlier value of the same key.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::DanglingKey`] when the last key has no value.
    pub fn from_list<S: Into<String>>(list: impl IntoIterator<Item = S>) -> Result<Self, CloudEventError> {
        let mut attributes = Attributes::default();
        let mut list = list.into_iter();
        while let Some(key) = list.next() {
            let key = key.into();
            match list.next() {
                Some(value) => attributes.0.insert(key, AttributeValue::String(value.into())),
                None => return Err(CloudEventError::DanglingKey { key }),
            };
        }
        Ok(attributes)
    }

    /// Adds an attribute, or replaces its value.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<AttributeValue>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Returns the source and the type.
    ///
    /// # Errors
    ///
    /// - [`CloudEventError::SourceNotFound`] when the source is missing or is not a text;
    /// - [`CloudEventError::TypeNotFound`] when the type is missing or is not a text.
    pub fn source_and_type(&self) -> Result<(&str, &str), CloudEventError> {
        let source = self.text("source").or_else(|| self.text("beholder_domain"));
        let event_type = self.text("type").or_else(|| self.text("beholder_entity"));
        Ok((source.ok_or(CloudEventError::SourceNotFound)?, event_type.ok_or(CloudEventError::TypeNotFound)?))
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            AttributeValue::String(text) => Some(text),
            _ => None,
        }
    }

    fn time(&self, key: &str) -> Option<SystemTime> {
        match self.0.get(key)? {
            AttributeValue::Time(time) => Some(*time),
            _ => None,
        }
    }
}

impl<K: Into<String>, V: Into<AttributeValue>> FromIterator<(K, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Attributes(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl CloudEvent {
    /// Builds an event from attributes and a payload.
    ///
    /// # Errors
    ///
    /// The errors of [`Attributes::source_and_type`] and of
    /// [`CloudEventBuilder::build`](super::CloudEventBuilder::build).
    pub fn from_attributes(attributes: &Attributes, payload: impl Into<Bytes>) -> Result<Self, CloudEventError> {
        let (source, event_type) = attributes.source_and_type()?;
        let mut builder = CloudEvent::builder(source, event_type).payload(payload);
        if let Some(subject) = attributes.text("subject") {
            builder = builder.subject(subject);
        }
        if let Some(schema) = attributes.text("dataschema") {
            builder = builder.data_schema(schema);
        }
        if let Some(key) = attributes.text("idempotencykey") {
            builder = builder.idempotency_key(key);
        }
        if let Some(time) = attributes.time("time") {
            builder = builder.time(time);
        }
        if let Some(time) = attributes.time("recordedtime") {
            builder = builder.recorded_time(time);
        }
        builder.build()
    }
}
