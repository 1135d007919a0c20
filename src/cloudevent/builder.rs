//! Building an event.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use fluent_uri::UriRef;
use uuid::Uuid;

use super::extension::ExtensionValue;
use super::resource::{RESERVED_NAMES, resource_names};
use super::wire::cloud_event::cloud_event_attribute_value::Attr;
use super::{CONTENT_TYPE, CloudEvent, CloudEventError, SPEC_VERSION, any, timestamp, value, whole_millis, wire};

/// An event that is being built; see [`CloudEvent::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `build`"]
pub struct CloudEventBuilder {
    domain: String,
    entity: String,
    payload: Bytes,
    subject: Option<String>,
    data_schema: Option<String>,
    time: Option<SystemTime>,
    recorded_time: Option<SystemTime>,
    idempotency_key: Option<String>,
    extensions: BTreeMap<String, ExtensionValue>,
    resource: Vec<(String, String)>,
}

impl CloudEventBuilder {
    pub(super) fn new(domain: String, entity: String) -> Self {
        CloudEventBuilder {
            domain,
            entity,
            payload: Bytes::new(),
            subject: None,
            data_schema: None,
            time: None,
            recorded_time: None,
            idempotency_key: None,
            extensions: BTreeMap::new(),
            resource: Vec::new(),
        }
    }

    /// The payload: bytes in the encoding that the data schema names, normally protobuf. Empty by default.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// What the event is about, within its source. Trimmed; empty means none.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The schema of the payload, a URI reference; it becomes the `type_url` of the payload too. Empty means none.
    pub fn data_schema(mut self, uri: impl Into<String>) -> Self {
        self.data_schema = Some(uri.into());
        self
    }

    /// When it happened, to the nanosecond.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.time = Some(time);
        self
    }

    /// When it was recorded; cut to milliseconds. Now, by default.
    pub fn recorded_time(mut self, time: SystemTime) -> Self {
        self.recorded_time = Some(time);
        self
    }

    /// The key by which a receiver knows the event again. Empty means none; then whoever sends the event gives it one.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// An extension attribute. The name is of lower-case letters and digits and not one of [`RESERVED_NAMES`], else `build` refuses.
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<ExtensionValue>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// Attributes of the sending service (`service.name`) as extensions; see [`resource_names`] for what becomes of their names. What
    /// cannot be named is left out, and none takes the place of an attribute that is there.
    pub fn resource_attributes<K, V>(mut self, attributes: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.resource.extend(attributes.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The event, with a fresh id.
    ///
    /// # Errors
    ///
    /// An empty source or type, a source or data schema that is no URI reference, a bad or reserved extension name.
    pub fn build(self) -> Result<CloudEvent, CloudEventError> {
        let event_type = self.entity.trim();
        if self.domain.is_empty() {
            return Err(CloudEventError::EmptySource);
        }
        if UriRef::parse(self.domain.as_str()).is_err() {
            return Err(CloudEventError::InvalidSource { text: self.domain });
        }
        if event_type.is_empty() {
            return Err(CloudEventError::EmptyType);
        }
        let mut attributes = BTreeMap::new();
        let mut set = |name: &str, attr| attributes.insert(name.to_owned(), value(attr));

        let recorded = whole_millis(self.recorded_time.unwrap_or_else(crate::clock::now));
        set("recordedtime", Attr::CeTimestamp(timestamp(recorded)));
        set("datacontenttype", Attr::CeString(CONTENT_TYPE.to_owned()));
        if let Some(time) = self.time {
            set("time", Attr::CeTimestamp(timestamp(time)));
        }
        let schema = self.data_schema.unwrap_or_default();
        if UriRef::parse(schema.as_str()).is_err() {
            return Err(CloudEventError::InvalidDataSchema { text: schema });
        }
        if !schema.is_empty() {
            set("dataschema", Attr::CeUri(schema.clone()));
        }
        if let Some(subject) = self.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty()) {
            set("subject", Attr::CeString(subject.to_owned()));
        }
        if let Some(key) = self.idempotency_key.filter(|key| !key.is_empty()) {
            set("idempotencykey", Attr::CeString(key));
        }
        for (name, extension) in self.extensions {
            check_name(&name)?;
            set(&name, extension.into_attr());
        }
        for (name, text) in resource_names(&self.resource) {
            attributes.entry(name).or_insert_with(|| value(Attr::CeString(text.to_owned())));
        }
        Ok(CloudEvent(wire::CloudEvent {
            id: Uuid::new_v4().to_string(),
            r#type: event_type.to_owned(),
            source: self.domain,
            spec_version: SPEC_VERSION.to_owned(),
            attributes,
            data: Some(any(schema, self.payload)),
        }))
    }
}

fn check_name(name: &str) -> Result<(), CloudEventError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(CloudEventError::InvalidExtensionName { name: name.to_owned() });
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(CloudEventError::ReservedExtension { name: name.to_owned() });
    }
    Ok(())
}
