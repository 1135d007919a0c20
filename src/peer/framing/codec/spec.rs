//! The names and settings of codecs, as a configuration writes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cloudevents::{CloudEvents, CloudEventsSettings};
use super::csv::{Csv, CsvSettings};
use super::json::{Json, JsonSettings};
use super::msgpack::Msgpack;
use super::text::{Binary, Text};
use super::{Codec, cloudevents, csv, json, msgpack, text};
use crate::peer::framing::error::FramingError;
use crate::peer::framing::limits::FramingLimits;
use crate::peer::framing::named::{Named, NoSettings};

/// The names of all codecs.
const NAMES: [&str; 6] = ["binary", "cloudevents", "csv", "json", "msgpack", "string"];

/// The name of a codec, with its settings.
///
/// In a configuration it is a plain name, or a table with `name` and the settings. The module has the table of
/// [all codecs](crate::peer::framing#codecs).
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::CodecSpec;
///
/// let codec: CodecSpec = serde_json::from_str(r#"{ "name": "csv", "separator": ";" }"#).unwrap();
/// assert_eq!(codec, CodecSpec::named("csv")?.with("separator", ";")?);
/// let error = serde_json::from_str::<CodecSpec>(r#""yaml""#).unwrap_err();
/// assert!(error.to_string().contains(r#"no codec has the name "yaml""#), "{error}");
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "Named")]
pub struct CodecSpec {
    named: Named,
    kind: Kind,
}

/// A codec with checked settings.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Binary,
    CloudEvents { protobuf: bool },
    Csv(CsvSettings),
    Json { sorted: bool },
    Msgpack,
    String,
}

impl CodecSpec {
    /// Returns the codec with this name, and default settings.
    ///
    /// # Errors
    ///
    /// [`FramingError::UnknownName`] with all names.
    pub fn named(name: &str) -> Result<Self, FramingError> {
        Named::new(name).try_into()
    }

    /// Sets a setting.
    ///
    /// # Errors
    ///
    /// [`FramingError::Settings`] when the codec has no such setting, or the value is wrong.
    pub fn with(self, setting: &str, value: impl Into<Value>) -> Result<Self, FramingError> {
        let mut named = self.named;
        named.settings.insert(setting.to_owned(), value.into());
        named.try_into()
    }

    /// Returns the codec that reads a media type, such as `application/json; charset=utf-8`, or `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::framing::CodecSpec;
    ///
    /// let name = |text| CodecSpec::for_content_type(text).map(|codec| codec.name().to_owned());
    /// assert_eq!(name("Application/JSON; charset=utf-8").as_deref(), Some("json"));
    /// assert_eq!(name("application/cloudevents+protobuf").as_deref(), Some("cloudevents"));
    /// assert_eq!(name("image/png"), None);
    /// ```
    #[must_use]
    pub fn for_content_type(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let protobuf = media_type == cloudevents::PROTOBUF_CONTENT_TYPE;
        let named = match media_type.as_str() {
            "application/octet-stream" => Self::named("binary"),
            cloudevents::JSON_CONTENT_TYPE => Self::named("cloudevents"),
            _ if protobuf => Self::named("cloudevents").and_then(|codec| codec.with("mode", "protobuf")),
            "text/csv" => Self::named("csv"),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Self::named("msgpack"),
            "text/plain" => Self::named("string"),
            "application/json" => Self::named("json"),
            other if other.ends_with("+json") => Self::named("json"),
            _ => return None,
        };
        named.ok()
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// Returns a new codec, for one stream.
    #[must_use]
    pub fn build(&self, limits: &FramingLimits) -> Box<dyn Codec> {
        match &self.kind {
            Kind::Binary => Box::new(Binary),
            Kind::CloudEvents { protobuf } => Box::new(CloudEvents::new(*protobuf)),
            Kind::Csv(settings) => Box::new(Csv::new(settings.clone(), limits)),
            Kind::Json { sorted } => Box::new(Json::new(*sorted)),
            Kind::Msgpack => Box::new(Msgpack::new(limits)),
            Kind::String => Box::new(Text),
        }
    }
}

impl Kind {
    fn read(named: &Named) -> Result<Self, FramingError> {
        match named.name.as_str() {
            "binary" => named.read::<NoSettings>(text::BINARY).map(|_| Kind::Binary),
            "cloudevents" => {
                let settings = named.read::<CloudEventsSettings>(cloudevents::NAME)?;
                Ok(Kind::CloudEvents { protobuf: settings.is_protobuf() })
            }
            "csv" => {
                let settings = named.read::<CsvSettings>(csv::NAME)?;
                settings.check().map(|()| Kind::Csv(settings))
            }
            "json" => {
                let settings = named.read::<JsonSettings>(json::NAME)?;
                Ok(Kind::Json { sorted: settings.is_sorted() })
            }
            "msgpack" => named.read::<NoSettings>(msgpack::NAME).map(|_| Kind::Msgpack),
            "string" => named.read::<NoSettings>(text::STRING).map(|_| Kind::String),
            name => {
                let known = NAMES.join(", ");
                Err(FramingError::UnknownName { what: "codec", name: name.to_owned(), known })
            }
        }
    }
}

impl TryFrom<Named> for CodecSpec {
    type Error = FramingError;

    fn try_from(named: Named) -> Result<Self, FramingError> {
        let kind = Kind::read(&named)?;
        Ok(CodecSpec { named, kind })
    }
}

impl From<CodecSpec> for Named {
    fn from(spec: CodecSpec) -> Self {
        spec.named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_is_found_by_its_media_type() {
        for name in NAMES {
            let codec = CodecSpec::named(name).unwrap();
            let content_type = codec.build(&FramingLimits::default()).content_type();
            assert_eq!(CodecSpec::for_content_type(content_type).as_ref(), Some(&codec), "{content_type}");
        }
        let protobuf = CodecSpec::named("cloudevents").unwrap().with("mode", "protobuf").unwrap();
        let content_type = protobuf.build(&FramingLimits::default()).content_type();
        assert_eq!(CodecSpec::for_content_type(content_type), Some(protobuf));
    }

    #[test]
    fn a_wrong_name_or_setting_is_refused_by_name() {
        let wrong = [
            (r#""yaml""#, "no codec has the name \"yaml\": use one of binary, "),
            (r#"{"name":"json","sorted":true}"#, "`json` are not usable: unknown field `sorted`"),
            (r#"{"name":"json","mode":"random"}"#, "unknown variant `random`"),
            (r#"{"name":"string","mode":"x"}"#, "unknown field `mode`"),
            (r#"{"name":"csv","separator":";;"}"#, "`separator`"),
            (r#"{"name":"csv","separator":"\""}"#, "`separator`"),
            (r#"{"name":"csv","headers":["a","a"]}"#, "\"a\" is twice in `headers`"),
            (r#"{"name":"csv","headers":[]}"#, "`headers` is empty"),
            (r#"{"name":"cloudevents","mode":"avro"}"#, "unknown variant `avro`"),
        ];
        for (text, problem) in wrong {
            let error = serde_json::from_str::<CodecSpec>(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
