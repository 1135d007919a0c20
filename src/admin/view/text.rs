//! How the plain data of views looks as text for machines: times as RFC 3339, ids and recipients as they are written.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use serde::Serializer;

use crate::eventbox::EventId;

/// Serializes a time as RFC 3339 with milliseconds.
pub(in crate::admin) fn time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
}

/// Serializes a time that may be missing.
pub(in crate::admin) fn time_if_any<S: Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, to),
        None => to.serialize_none(),
    }
}

/// Serializes what has a text form.
pub(in crate::admin) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes what has a text form and may be missing.
pub(in crate::admin) fn text_if_any<S: Serializer>(value: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

/// Serializes an id as its UUID.
pub(in crate::admin) fn id<S: Serializer>(id: &EventId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id.as_uuid())
}

/// Serializes bytes as text. Bytes that are no UTF-8 become replacement characters.
pub(in crate::admin) fn lossy_if_any<S: Serializer>(bytes: &Option<bytes::Bytes>, to: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => to.serialize_str(&String::from_utf8_lossy(bytes)),
        None => to.serialize_none(),
    }
}

/// Serializes a duration as seconds.
pub(in crate::admin) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Serializes a duration that may be missing as seconds.
pub(in crate::admin) fn seconds_if_any<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, to),
        None => to.serialize_none(),
    }
}
