//! Codecs: what turns the bytes of a message into the value of an event, and back.

mod cloudevents;
mod csv;
mod json;
mod json_text;
mod members;
mod msgpack;
mod spec;
mod structured;
mod text;

use std::fmt;

use bytes::Bytes;

pub use spec::CodecSpec;

use super::chunk::Chunk;
use super::error::FramingError;

/// A value that came out of a chunk.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::{Chunk, CodecSpec, FramingLimits};
///
/// let mut codec = CodecSpec::named("cloudevents")?.build(&FramingLimits::default());
/// let text = r#"{"specversion":"1.0","id":"7","source":"/shop","type":"ordered"}"#;
/// let mut out = Vec::new();
/// codec.decode(Chunk::new(text, 5), &mut out)?;
/// assert_eq!((out[0].id.as_deref(), out[0].ingest_ns), (Some("/shop 7"), 5));
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoded {
    /// The value for the eventbox: JSON, except for the codecs `binary` and `string`.
    pub value: Bytes,
    /// What makes a message that is sent again recognisable. Only `cloudevents` knows it: source, a space, and id.
    pub id: Option<String>,
    /// Time of arrival, in nanoseconds since 1970.
    pub ingest_ns: u64,
}

impl Decoded {
    /// Returns a value without an id.
    pub fn new(value: impl Into<Bytes>, ingest_ns: u64) -> Self {
        Decoded { value: value.into(), id: None, ingest_ns }
    }
}

impl fmt::Debug for Decoded {
    /// Writes the length and not the value, because a value may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decoded { value, id, ingest_ns } = self;
        let mut shown = f.debug_struct("Decoded");
        shown.field("value", &value.len()).field("id", id).field("ingest_ns", ingest_ns).finish()
    }
}

/// Turns messages into values, and values into messages, for one stream.
///
/// Each chunk is a message of its own, so an error costs this message only. The exception is a stream of `csv` whose
/// first record names the columns and is bad.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::{Chunk, CodecSpec, FramingLimits};
///
/// let mut codec = CodecSpec::named("msgpack")?.build(&FramingLimits::default());
/// let mut sent = Vec::new();
/// codec.encode(br#"{"items":3}"#, &mut sent)?;
/// assert_eq!(sent[0], b"\x81\xa5items\x03".as_slice());
/// let mut got = Vec::new();
/// codec.decode(Chunk::new(sent[0].clone(), 0), &mut got)?;
/// assert_eq!(got[0].value, br#"{"items":3}"#.as_slice());
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
pub trait Codec: Send {
    /// Returns the media type of the messages.
    fn content_type(&self) -> &'static str;

    /// Reads a message, and adds its values to `out`. A message may have no value, such as an empty one of `json`.
    ///
    /// # Errors
    ///
    /// The problem with the message. Good values beside it are in `out`.
    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError>;

    /// Writes a value, and adds its messages to `out`: normally one.
    ///
    /// # Errors
    ///
    /// [`FramingError::Unwritable`] when the value has no form in this codec.
    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError>;

    /// Adds what the codec still has at the end of the stream. The codecs of this crate keep no part of a value.
    ///
    /// # Errors
    ///
    /// [`FramingError::Incomplete`] when a codec has the beginning of a value.
    fn finish(&mut self, _out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        Ok(())
    }
}
