//! A piece of bytes on its way.

use std::fmt;

use bytes::Bytes;

/// A piece of bytes on its way, with the time of its arrival.
///
/// A message that was joined from several chunks has the time of the chunk with its last byte.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::Chunk;
///
/// let chunk = Chunk::new("a pencil", 1_700_000_000_000_000_000);
/// assert_eq!((&chunk.bytes[..], chunk.ingest_ns), (b"a pencil".as_slice(), 1_700_000_000_000_000_000));
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Chunk {
    /// The bytes.
    pub bytes: Bytes,
    /// Time of arrival, in nanoseconds since 1970. An interceptor may change it.
    pub ingest_ns: u64,
}

impl Chunk {
    /// Returns a chunk of bytes that arrived at a time, in nanoseconds since 1970.
    pub fn new(bytes: impl Into<Bytes>, ingest_ns: u64) -> Self {
        Chunk { bytes: bytes.into(), ingest_ns }
    }
}

impl fmt::Debug for Chunk {
    /// Writes the length and not the bytes, because a payload may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("bytes", &self.bytes.len()).field("ingest_ns", &self.ingest_ns).finish()
    }
}

/// The way of the bytes of a stream: from the outside, or to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the outside into an eventbox: interceptors take framing and compression off.
    Incoming,
    /// From an outbox to the outside: interceptors put framing and compression on.
    Outgoing,
}
