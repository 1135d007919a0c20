//! Events from lists of attributes, as telemetry code has them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use super::{CloudEvent, CloudEventError};

/// An attribute's value, when it is not known before the program runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A text.
    String(String),
    /// A time.
    Time(SystemTime),
    /// A whole number; no attribute of an event takes one.
    Integer(i64),
    /// Yes or no; no attribute of an event takes one.
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

/// Attributes by name: `source` and `type` (or `beholder_domain` and `beholder_entity`), and optionally `subject`, `dataschema`,
/// `time`, `recordedtime`, `idempotencykey`. Other names and values of another type than the attribute's are ignored.
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
    /// Attributes from key, value, key, value …; a later key replaces an earlier one.
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

    /// Adds or replaces one.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<AttributeValue>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The source and the type.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::SourceNotFound`] or [`CloudEventError::TypeNotFound`].
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
    /// An event from attributes and a payload.
    ///
    /// # Errors
    ///
    /// As [`Attributes::source_and_type`] and [`CloudEventBuilder::build`](super::CloudEventBuilder::build).
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
