//! The names and settings of interceptors, as a configuration writes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compression::{Compression, Compressor, Decompressor};
use super::frames::{Deframe, Frame, Header, Width};
use super::gather::{Gather, GatherSettings};
use super::separate::{Append, SeparateSettings, Separator, Split};
use super::{Interceptor, base64, gzip, ingest_ns, remove_empty, zstd};
use crate::peer::framing::chunk::Direction;
use crate::peer::framing::error::FramingError;
use crate::peer::framing::limits::FramingLimits;
use crate::peer::framing::named::{Named, NoSettings};

/// The names of all interceptors.
const NAMES: [&str; 10] = [
    "base64",
    "chunk",
    "gzip",
    "ingest-ns",
    "length-prefixed",
    "lines",
    "remove-empty",
    "separate",
    "textual-length-prefixed",
    "zstd",
];

/// The name of an interceptor, with its settings.
///
/// In a configuration it is a plain name, or a table with `name` and the settings. The module has the table of
/// [all interceptors](crate::peer::framing#interceptors).
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::InterceptorSpec;
///
/// let text = r#"["lines", { "name": "length-prefixed", "width": 2 }]"#;
/// let specs: Vec<InterceptorSpec> = serde_json::from_str(text).unwrap();
/// assert_eq!(specs[0], InterceptorSpec::named("lines")?);
/// assert_eq!(specs[1], InterceptorSpec::named("length-prefixed")?.with("width", 2)?);
///
/// let error = serde_json::from_str::<InterceptorSpec>(r#"{ "name": "lines", "width": 2 }"#).unwrap_err();
/// assert!(error.to_string().contains("unknown field `width`"), "{error}");
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "Named")]
pub struct InterceptorSpec {
    named: Named,
    kind: Kind,
}

/// An interceptor with checked settings.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Separate(&'static str, Separator),
    LengthPrefixed(Width),
    TextualLengthPrefixed,
    Base64,
    Gzip(Compression),
    Zstd(Compression),
    RemoveEmpty,
    IngestNs,
    Chunk(usize),
}

impl InterceptorSpec {
    /// Returns the interceptor with this name, and default settings.
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
    /// [`FramingError::Settings`] when the interceptor has no such setting, or the value is wrong.
    pub fn with(self, setting: &str, value: impl Into<Value>) -> Result<Self, FramingError> {
        let mut named = self.named;
        named.settings.insert(setting.to_owned(), value.into());
        named.try_into()
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// Returns a new interceptor, for one direction of one stream.
    ///
    /// # Errors
    ///
    /// [`FramingError::Settings`] when a setting is over a limit.
    pub fn build(&self, direction: Direction, limits: &FramingLimits) -> Result<Box<dyn Interceptor>, FramingError> {
        let incoming = direction == Direction::Incoming;
        Ok(match &self.kind {
            Kind::Separate(name, separator) if incoming => Box::new(Split::new(name, separator.clone(), limits)),
            Kind::Separate(name, separator) => Box::new(Append::new(name, separator.clone(), limits)),
            Kind::LengthPrefixed(width) => frames(Header::Binary(*width), incoming, limits),
            Kind::TextualLengthPrefixed => frames(Header::Text, incoming, limits),
            Kind::Base64 if incoming => Box::new(base64::Decode),
            Kind::Base64 => Box::new(base64::Encode),
            Kind::Gzip(settings) if incoming => {
                Box::new(Decompressor::new(gzip::NAME, Box::<gzip::Gunzip>::default(), settings.streaming, limits))
            }
            Kind::Gzip(settings) => Box::new(Compressor::new(gzip::NAME, Box::new(gzip::Gzip::new(settings.level)))),
            Kind::Zstd(settings) if incoming => {
                Box::new(Decompressor::new(zstd::NAME, Box::<zstd::Unzstd>::default(), settings.streaming, limits))
            }
            Kind::Zstd(settings) => Box::new(Compressor::new(zstd::NAME, Box::new(zstd::Zstd::new(settings.level)))),
            Kind::RemoveEmpty => Box::new(remove_empty::RemoveEmpty),
            Kind::IngestNs if incoming => Box::new(ingest_ns::Take),
            Kind::IngestNs => Box::new(ingest_ns::Put),
            Kind::Chunk(max_bytes) => Box::new(Gather::new(*max_bytes, incoming, limits)?),
        })
    }
}

fn frames(header: Header, incoming: bool, limits: &FramingLimits) -> Box<dyn Interceptor> {
    match incoming {
        true => Box::new(Deframe::new(header, limits)),
        false => Box::new(Frame::new(header, limits)),
    }
}

impl Kind {
    fn read(named: &Named) -> Result<Self, FramingError> {
        let none = |part, kind| named.read::<NoSettings>(part).map(|_| kind);
        match named.name.as_str() {
            "lines" => none("lines", Kind::Separate("lines", Separator::lines())),
            "separate" => Ok(Kind::Separate("separate", named.read::<SeparateSettings>("separate")?.try_into()?)),
            "length-prefixed" => Width::read(named).map(Kind::LengthPrefixed),
            "textual-length-prefixed" => none("textual-length-prefixed", Kind::TextualLengthPrefixed),
            "base64" => none(base64::NAME, Kind::Base64),
            "gzip" => Compression::read(named, gzip::NAME, gzip::LEVELS, gzip::DEFAULT_LEVEL).map(Kind::Gzip),
            "zstd" => Compression::read(named, zstd::NAME, zstd::LEVELS, zstd::DEFAULT_LEVEL).map(Kind::Zstd),
            "remove-empty" => none(remove_empty::NAME, Kind::RemoveEmpty),
            "ingest-ns" => none(ingest_ns::NAME, Kind::IngestNs),
            "chunk" => GatherSettings::read(named).map(Kind::Chunk),
            name => {
                let known = NAMES.join(", ");
                Err(FramingError::UnknownName { what: "interceptor", name: name.to_owned(), known })
            }
        }
    }
}

impl TryFrom<Named> for InterceptorSpec {
    type Error = FramingError;

    fn try_from(named: Named) -> Result<Self, FramingError> {
        let kind = Kind::read(&named)?;
        Ok(InterceptorSpec { named, kind })
    }
}

impl From<InterceptorSpec> for Named {
    fn from(spec: InterceptorSpec) -> Self {
        spec.named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<InterceptorSpec, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_name_is_known_in_both_directions_and_writes_itself() {
        for name in NAMES {
            let spec = InterceptorSpec::named(name).unwrap();
            for direction in [Direction::Incoming, Direction::Outgoing] {
                assert_eq!(spec.build(direction, &FramingLimits::default()).unwrap().name(), name);
            }
            assert_eq!(serde_json::to_string(&spec).unwrap(), format!("{name:?}"));
        }
        let text = r#"{"name":"separate","separator":"|"}"#;
        assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn a_wrong_name_or_setting_is_refused_by_name() {
        let wrong = [
            (r#""gelf""#, "no interceptor has the name \"gelf\""),
            (r#"{"separator":"|"}"#, "missing field `name`"),
            (r#"{"name":"separate","separater":"|"}"#, "`separate` are not usable: unknown field `separater`"),
            (r#"{"name":"separate","separator":""}"#, "`separate` are not usable: `separator` is empty"),
            (r#"{"name":"separate","separator":"12345678901234567"}"#, "longer than 16 bytes"),
            (r#"{"name":"length-prefixed","width":3}"#, "`width` is 3"),
            (r#"{"name":"gzip","level":10}"#, "`level` is 10"),
            (r#"{"name":"zstd","level":20}"#, "`level` is 20"),
            (r#"{"name":"zstd","mode":"whole-ish"}"#, "unknown variant `whole-ish`"),
            (r#"{"name":"chunk","max_bytes":0}"#, "`max_bytes` is 0"),
            (r#"{"name":"base64","x":1,"x":2}"#, "`x` is there twice"),
            ("7", "expected a name, or a table"),
        ];
        for (text, problem) in wrong {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_chunk_over_the_limit_of_buffers_is_refused_at_the_build() {
        let spec = InterceptorSpec::named("chunk").unwrap().with("max_bytes", 2 << 20).unwrap();
        let Err(error) = spec.build(Direction::Outgoing, &FramingLimits::default()) else { panic!("it was built") };
        assert!(error.to_string().contains("max_buffered_bytes"), "{error}");
    }
}
