//! What turns the bytes of a connection into the values of events, and back.
//!
//! Each stream of a peer has, in each direction, a [`Chain`] of interceptors and a [`Codec`] of its own. They are made
//! when the stream starts and dropped when it ends, so that two streams never share the beginning of a message.
//! [`Chain::finish`] flushes what a stream still has.
//!
//! ```text
//! incoming: connection -> chunk -> interceptors -> messages -> codec -> values of events
//! outgoing: values of events -> codec -> messages -> interceptors -> chunks -> connection
//! ```
//!
//! # Interceptors
//!
//! An [`InterceptorSpec`] is a name, or a table with `name` and settings. Bytes pass the interceptors in the order of
//! the list, in both directions. An interceptor undoes for incoming bytes what it does to outgoing ones, so the
//! list of the reader is the reverse of the list of the writer.
//!
//! | name | settings (default) | incoming | outgoing | own limit |
//! | --- | --- | --- | --- | --- |
//! | `lines` | | splits at `\n`, takes a `\r` before it off | adds `\n` | `max_line_bytes` |
//! | `separate` | `separator` (`"\n"`) | splits at the separator | adds the separator | `max_line_bytes` |
//! | `length-prefixed` | `width` (4) | takes the length off | puts it in front | `max_frame_bytes` |
//! | `textual-length-prefixed` | | takes the length off | puts it in front | `max_frame_bytes` |
//! | `base64` | | reads text, with or without padding | writes text with padding | |
//! | `gzip` | `mode` (`"whole"`), `level` (6) | decompresses | makes members of chunks | `max_decompressed_bytes` |
//! | `zstd` | `mode` (`"whole"`), `level` (3) | decompresses | makes frames of chunks | `max_decompressed_bytes` |
//! | `remove-empty` | | drops chunks without bytes | the same | |
//! | `ingest-ns` | | takes 8 bytes off, and sets them as the time of arrival | puts the time in front | |
//! | `chunk` | `max_bytes` (65536) | nothing | joins small chunks up to `max_bytes` | `max_buffered_bytes` |
//!
//! Every interceptor obeys `max_chunks` and `max_output_bytes` of [`FramingLimits`].
//!
//! - A separator has 1 to 16 bytes. A `width` is 1, 2, 4 or 8 bytes, and the length is big endian. A textual length is
//!   decimal digits and a space. Levels of `gzip` are 0 to 9. Levels of `zstd` are 1 to 19, and its window is at most
//!   8 MiB.
//! - A message between separators that is too long is one error, and is skipped to its separator. Outgoing, a message
//!   that has the separator in it is refused, because it would come back as two.
//! - The rest after the last separator is a message at the end of the stream. Half a frame is an error there.
//! - `mode = "whole"` is the default of `gzip` and `zstd`: every chunk has whole members, glued together or not, and
//!   a bad chunk costs only itself. It fits behind `length-prefixed`, or a transport with messages. Members are joined.
//! - `mode = "streaming"` reads members that go over many chunks, such as a compressed file, and gives bytes as soon as
//!   they are there. It keeps no borders of messages: put `lines` or a length behind it. A bad byte ends the stream.
//! - `chunk` sends what it has when a chunk is full and at the end of the stream, and never because of time.
//!
//! # Codecs
//!
//! A [`CodecSpec`] is a name, or a table with `name` and settings.
//!
//! | name | settings (default) | message | value in the eventbox |
//! | --- | --- | --- | --- |
//! | `json` | `mode` (`"unsorted"`) or `"sorted"` | one document; compact when written | the document |
//! | `string` | | UTF-8 | the text |
//! | `binary` | | any bytes | the bytes |
//! | `msgpack` | | one value | JSON |
//! | `csv` | `separator` (`","`), `headers` (none) | records in UTF-8 | a JSON array of strings, or an object |
//! | `cloudevents` | `mode` (`"json"`) or `"protobuf"` | one CloudEvent | the CloudEvent in the JSON event format |
//!
//! - An empty message of `json`, `msgpack`, `csv` or `cloudevents` has no value, and is no error.
//! - JSON keeps the text of its numbers and strings. Sorting keeps equal keys in their order. The codec refuses what a
//!   reader of the value would refuse: a number out of range, half a surrogate pair, a depth over
//!   [`MAX_JSON_DEPTH`](crate::limits::MAX_JSON_DEPTH).
//! - MessagePack has more than JSON. Binary data, extension types, keys that are not strings, and numbers that are not
//!   finite are errors. Written maps do not keep their order, and integers over 64 bits become floating-point numbers.
//! - A chunk of `csv` has whole records, of which each is a value. `headers` is a list of names, or `"first-record"`:
//!   the first record of the stream has them. Numbers and booleans are written as their text, and null as an empty
//!   field; every field is read as a string. Use a length and not `lines` for fields with line ends.
//! - `cloudevents` gives the id `source id` in [`Decoded::id`], so that a CloudEvent that is sent again can be
//!   recognised. A JSON payload is in `data`; any other binary payload in `data_base64`. A message must be fit for a
//!   [`CloudEvent`](crate::CloudEvent). The type URL of a protobuf payload is kept as `dataschema` when there is none.
//!
//! # Errors
//!
//! A [`FramingError`] names the interceptor or codec, the limit, and the setting to raise. Ask it
//! [`ends_stream`](FramingError::ends_stream):
//!
//! | the stream goes on after | the stream ends after |
//! | --- | --- |
//! | a message that is too long between separators | a length that is too large or no number |
//! | text that is not base64, a chunk without its 8 bytes of time | |
//! | a bad chunk in the mode `whole` | a bad byte, or too many bytes, in the mode `streaming` |
//! | a message that a codec cannot read | a first record of `csv` that names no columns |
//! | | any error before an interceptor that joins chunks, because it would join the wrong ones |
//!
//! # Examples
//!
//! ```
//! use eventbox::peer::framing::{Chain, Chunk, CodecSpec, Direction, FramingError, FramingLimits, InterceptorSpec};
//!
//! fn specs(text: &str) -> Vec<InterceptorSpec> {
//!     serde_json::from_str(text).unwrap()
//! }
//!
//! let limits = FramingLimits::default();
//! let mut codec = CodecSpec::named("json")?.build(&limits);
//! let mut outgoing = Chain::new(&specs(r#"["gzip", "length-prefixed"]"#), Direction::Outgoing, &limits)?;
//! let mut incoming = Chain::new(&specs(r#"["length-prefixed", "gzip"]"#), Direction::Incoming, &limits)?;
//!
//! let (mut messages, mut sent, mut received, mut values) = (vec![], vec![], vec![], vec![]);
//! codec.encode(br#"{ "items": 3 }"#, &mut messages)?;
//! for message in messages {
//!     outgoing.process(Chunk::new(message, 0), &mut sent)?;
//! }
//! outgoing.finish(&mut sent)?;
//! for chunk in sent {
//!     let (one, other) = chunk.bytes.split_at(5); // a connection cuts where it likes
//!     incoming.process(Chunk::new(one.to_vec(), 1), &mut received)?;
//!     incoming.process(Chunk::new(other.to_vec(), 2), &mut received)?;
//! }
//! for chunk in received {
//!     codec.decode(chunk, &mut values)?;
//! }
//! assert_eq!((&values[0].value[..], values[0].ingest_ns), (br#"{"items":3}"#.as_slice(), 2));
//! # Ok::<(), FramingError>(())
//! ```

mod bounded;
mod chain;
mod chunk;
mod codec;
mod error;
mod interceptor;
mod limits;
mod named;
#[cfg(test)]
mod properties;

pub use chain::Chain;
pub use chunk::{Chunk, Direction};
pub use codec::{Codec, CodecSpec, Decoded};
pub use error::FramingError;
pub use interceptor::{Interceptor, InterceptorSpec};
pub use limits::FramingLimits;
