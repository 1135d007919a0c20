//! The builder of an event.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use uuid::Uuid;

use super::check::{check, check_name, invalid};
use super::extension::ExtensionValue;
use super::resource::{RESERVED_NAMES, resource_names};
use super::wire::cloud_event::Data;
use super::wire::cloud_event::cloud_event_attribute_value::Attr;
use crate::json;

use super::{CONTENT_TYPE, CloudEvent, CloudEventError, SPEC_VERSION, any, timestamp, value, whole_millis, wire};

/// The content type of a payload that [`CloudEventBuilder::json`] writes.
pub const JSON_CONTENT_TYPE: &str = "application/json";

/// The builder of an event; see [`CloudEvent::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `build`"]
pub struct CloudEventBuilder {
    domain: String,
    entity: String,
    payload: Result<Bytes, CloudEventError>,
    content_type: String,
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
            payload: Ok(Bytes::new()),
            content_type: CONTENT_TYPE.to_owned(),
            subject: None,
            data_schema: None,
            time: None,
            recorded_time: None,
            idempotency_key: None,
            extensions: BTreeMap::new(),
            resource: Vec::new(),
        }
    }

    /// Sets the payload: bytes in the encoding that the data schema names, normally protobuf. Empty by default.
    pub fn payload(self, payload: impl Into<Bytes>) -> Self {
        self.payload_as(CONTENT_TYPE, payload)
    }

    /// Sets the payload and its content type, a media type such as `text/csv` or `application/avro`.
    ///
    /// A payload of exactly `application/protobuf` travels as `proto_data`, any other payload as `binary_data`. `build`
    /// refuses a content type that is not a media type.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::CloudEvent;
    ///
    /// let event = CloudEvent::builder("flights", "flight.departed").payload_as("text/plain", "UA 1545").build()?;
    /// assert_eq!((event.data_content_type(), event.payload()), (Some("text/plain"), b"UA 1545".as_slice()));
    /// # Ok::<(), eventbox::cloudevent::CloudEventError>(())
    /// ```
    pub fn payload_as(mut self, content_type: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        self.content_type = content_type.into();
        self.payload = Ok(payload.into());
        self
    }

    /// Sets the payload to a value as JSON, with the content type [`JSON_CONTENT_TYPE`].
    ///
    /// `build` returns [`CloudEventError::Json`], with the name of the field, for a value that JSON would change:
    ///
    /// - a number that is NaN or infinite;
    /// - `Some(None)`;
    /// - a map with keys that are not strings;
    /// - a value that is nested deeper than [`MAX_JSON_DEPTH`](crate::limits::MAX_JSON_DEPTH).
    ///
    /// # Examples
    ///
    /// ```
    /// let flight = serde_json::json!({ "carrier": "UA", "flight": 1545 });
    /// let event = eventbox::CloudEvent::builder("flights", "flight.departed").json(&flight).build()?;
    /// assert_eq!(event.data_content_type(), Some("application/json"));
    /// assert_eq!(serde_json::from_slice::<serde_json::Value>(event.payload()).ok(), Some(flight));
    /// # Ok::<(), eventbox::cloudevent::CloudEventError>(())
    /// ```
    pub fn json<T: serde::Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.content_type = JSON_CONTENT_TYPE.to_owned();
        let written = json::to_vec(value);
        self.payload = written.map(Bytes::from).map_err(|error| CloudEventError::Json { problem: error.to_string() });
        self
    }

    /// Sets the subject: the thing that the event is about, within its source.
    ///
    /// `build` trims the subject, and leaves out an empty subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the schema of the payload, a URI reference. `build` leaves out an empty schema.
    ///
    /// The schema also becomes the `type_url` of a protobuf payload.
    pub fn data_schema(mut self, uri: impl Into<String>) -> Self {
        self.data_schema = Some(uri.into());
        self
    }

    /// Sets the time when the event happened, to the nanosecond.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the time when the event was recorded, cut to milliseconds. The default is the time of `build`.
    ///
    /// `build` refuses a time before 1970.
    pub fn recorded_time(mut self, time: SystemTime) -> Self {
        self.recorded_time = Some(time);
        self
    }

    /// Sets the key by which a receiver recognises the event.
    ///
    /// `build` leaves out an empty key. A turn and the outbox set a key for an event without a key.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Sets an extension attribute.
    ///
    /// The name consists of lower-case letters and digits. `build` refuses other names and the [`RESERVED_NAMES`].
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<ExtensionValue>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// Adds attributes of the sending service (such as `service.name`) as extensions.
    ///
    /// [`resource_names`] makes their names, and leaves out attributes without a usable name. A resource attribute
    /// never replaces another attribute of the event.
    pub fn resource_attributes<K, V>(mut self, attributes: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.resource.extend(attributes.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Returns the event, with a new random id.
    ///
    /// # Errors
    ///
    /// | problem | [`CloudEventError`] |
    /// | --- | --- |
    /// | an empty source, or a source that is not a URI reference | `EmptySource`, `InvalidSource` |
    /// | an empty type | `EmptyType` |
    /// | a data schema that is not a URI reference | `InvalidDataSchema` |
    /// | an extension name with other characters, or a reserved name | `InvalidExtensionName`, `ReservedExtension` |
    /// | a payload that cannot be written as JSON | `Json` |
    /// | a value with a NUL character | `InvalidAttribute` |
    /// | a time outside the years 1 to 9999, or a `recordedtime` before 1970 | `InvalidAttribute` |
    /// | a content type that is not a media type | `InvalidAttribute` |
    /// | a URI extension that is not a URI | `InvalidAttribute` |
    pub fn build(self) -> Result<CloudEvent, CloudEventError> {
        let event_type = self.entity.trim();
        if self.domain.is_empty() {
            return Err(CloudEventError::EmptySource);
        }
        if self.recorded_time.is_some_and(|time| time < SystemTime::UNIX_EPOCH) {
            return Err(invalid("recordedtime", "its time is before 1970"));
        }
        let payload = self.payload?;
        let mut attributes = BTreeMap::new();
        let mut set = |name: &str, attr| attributes.insert(name.to_owned(), value(attr));

        let recorded = whole_millis(self.recorded_time.unwrap_or_else(crate::clock::now));
        set("recordedtime", Attr::CeTimestamp(timestamp(recorded)));
        set("datacontenttype", Attr::CeString(self.content_type.clone()));
        if let Some(time) = self.time {
            set("time", Attr::CeTimestamp(timestamp(time)));
        }
        let schema = self.data_schema.unwrap_or_default();
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
            if RESERVED_NAMES.contains(&name.as_str()) {
                return Err(CloudEventError::ReservedExtension { name });
            }
            set(&name, extension.into_attr());
        }
        for (name, text) in resource_names(&self.resource) {
            attributes.entry(name).or_insert_with(|| value(Attr::CeString(text.to_owned())));
        }
        let data = if self.content_type == CONTENT_TYPE { any(schema, payload) } else { Data::BinaryData(payload) };
        let event = wire::CloudEvent {
            id: Uuid::new_v4().to_string(),
            r#type: event_type.to_owned(),
            source: self.domain,
            spec_version: SPEC_VERSION.to_owned(),
            attributes,
            data: Some(data),
        };
        check(&event)?;
        Ok(CloudEvent(event))
    }
}
