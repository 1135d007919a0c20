//! `lines` and `separate`: messages with a separator between them.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::{Faults, FramingError};
use crate::peer::framing::limits::FramingLimits;

/// Longest separator, in bytes.
const MAX_SEPARATOR_BYTES: usize = 16;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SeparateSettings {
    separator: String,
}

impl Default for SeparateSettings {
    fn default() -> Self {
        SeparateSettings { separator: "\n".to_owned() }
    }
}

/// The bytes that stand after each message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Separator {
    bytes: Vec<u8>,
    /// Whether a carriage return before the separator belongs to it.
    strips_cr: bool,
}

impl Separator {
    pub(super) fn lines() -> Self {
        Separator { bytes: b"\n".to_vec(), strips_cr: true }
    }

    /// Returns the number of bytes that may be the beginning of a separator.
    fn edge(&self) -> usize {
        self.bytes.len() - 1
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        memmem::find(bytes, &self.bytes)
    }
}

impl TryFrom<SeparateSettings> for Separator {
    type Error = FramingError;

    fn try_from(settings: SeparateSettings) -> Result<Self, FramingError> {
        let bytes = settings.separator.into_bytes();
        match bytes.len() {
            0 => Err(FramingError::settings("separate", "`separator` is empty")),
            1..=MAX_SEPARATOR_BYTES => Ok(Separator { bytes, strips_cr: false }),
            _ => Err(FramingError::settings("separate", "`separator` is longer than 16 bytes")),
        }
    }
}

fn over_long(part: &'static str, limit: usize) -> FramingError {
    let what = "a message of more bytes";
    FramingError::OverLimit { part, what, limit, setting: "max_line_bytes", ends_stream: false }
}

/// Splits chunks at separators, and keeps the rest after the last one.
pub(super) struct Split {
    name: &'static str,
    separator: Separator,
    max_line_bytes: usize,
    max_chunks: usize,
    /// The beginning of a message. While skipping: bytes that may be the beginning of the separator.
    rest: BytesMut,
    /// Whether the message is too long, and is skipped to its separator.
    skipping: bool,
    ingest_ns: u64,
}

impl Split {
    pub(super) fn new(name: &'static str, separator: Separator, limits: &FramingLimits) -> Self {
        let FramingLimits { max_line_bytes, max_chunks, .. } = *limits;
        let rest = BytesMut::new();
        Split { name, separator, max_line_bytes, max_chunks, rest, skipping: false, ingest_ns: 0 }
    }

    /// Returns how many of these bytes belong to the message that the rest began, with its separator.
    fn end_of_message(&self, bytes: &[u8]) -> Option<usize> {
        let width = self.separator.bytes.len();
        let kept = self.rest.len().min(self.separator.edge());
        if kept > 0 {
            let mut edge: Vec<u8> = self.rest.iter().skip(self.rest.len() - kept).copied().collect();
            edge.extend(bytes.iter().take(self.separator.edge()));
            if let Some(at) = self.separator.find(&edge) {
                return Some(at + width - kept);
            }
        }
        self.separator.find(bytes).map(|at| at + width)
    }

    /// Adds a message, of which the separator is still a part.
    fn add(&mut self, mut message: Bytes, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if std::mem::take(&mut self.skipping) {
            return Ok(());
        }
        message.truncate(message.len() - self.separator.bytes.len());
        if self.separator.strips_cr && message.last() == Some(&b'\r') {
            message.truncate(message.len() - 1);
        }
        if message.len() > self.max_line_bytes {
            return Err(over_long(self.name, self.max_line_bytes));
        }
        if out.len() >= self.max_chunks {
            return Err(FramingError::too_many(self.name, self.max_chunks));
        }
        out.push(Chunk::new(message, self.ingest_ns));
        Ok(())
    }

    /// Keeps bytes without a separator for the next chunk, unless they are too long for a message.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        let edge = self.separator.edge();
        let bound = self.max_line_bytes.saturating_add(edge).saturating_add(usize::from(self.separator.strips_cr));
        let was_skipping = self.skipping;
        self.skipping |= self.rest.len().saturating_add(bytes.len()) > bound;
        if !self.skipping {
            self.rest.extend_from_slice(bytes);
            return Ok(());
        }
        if bytes.len() < edge {
            self.rest.extend_from_slice(bytes);
            self.rest.advance(self.rest.len().saturating_sub(edge));
        } else {
            self.rest = bytes.iter().skip(bytes.len() - edge).copied().collect();
        }
        if was_skipping { Ok(()) } else { Err(over_long(self.name, self.max_line_bytes)) }
    }
}

impl Interceptor for Split {
    fn name(&self) -> &'static str {
        self.name
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let Chunk { mut bytes, ingest_ns } = chunk;
        self.ingest_ns = ingest_ns;
        let mut faults = Faults::default();
        while let Some(end) = self.end_of_message(&bytes) {
            let mut message = bytes.split_to(end);
            if !self.rest.is_empty() {
                self.rest.extend_from_slice(&message);
                message = self.rest.split().freeze();
            }
            if let Err(error) = self.add(message, out) {
                faults.add(error);
            }
        }
        if let Err(error) = self.keep(&bytes) {
            faults.add(error);
        }
        faults.into_result()
    }

    fn finish(&mut self, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let rest = self.rest.split().freeze();
        if std::mem::take(&mut self.skipping) || rest.is_empty() {
            return Ok(());
        }
        if rest.len() > self.max_line_bytes {
            return Err(over_long(self.name, self.max_line_bytes));
        }
        out.push(Chunk::new(rest, self.ingest_ns));
        Ok(())
    }

    fn spans_chunks(&self) -> bool {
        true
    }
}

/// Puts a separator after each message, and refuses a message that would not come back as one.
pub(super) struct Append {
    name: &'static str,
    separator: Separator,
    max_line_bytes: usize,
}

impl Append {
    pub(super) fn new(name: &'static str, separator: Separator, limits: &FramingLimits) -> Self {
        Append { name, separator, max_line_bytes: limits.max_line_bytes }
    }
}

impl Interceptor for Append {
    fn name(&self) -> &'static str {
        self.name
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let length = chunk.bytes.len();
        if length > self.max_line_bytes {
            return Err(over_long(self.name, self.max_line_bytes));
        }
        if self.separator.strips_cr && chunk.bytes.last() == Some(&b'\r') {
            return Err(FramingError::unwritable(self.name, "its last carriage return would be taken off"));
        }
        let mut bytes = Vec::with_capacity(length + self.separator.bytes.len());
        bytes.extend_from_slice(&chunk.bytes);
        bytes.extend_from_slice(&self.separator.bytes);
        // Also a message that ends with a part of the separator can move its place.
        if self.separator.find(&bytes) != Some(length) {
            return Err(FramingError::unwritable(
                self.name,
                "the separator is in it, so it would come back as several",
            ));
        }
        out.push(Chunk::new(bytes, chunk.ingest_ns));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::framing::{Direction, InterceptorSpec};

    fn limits() -> FramingLimits {
        FramingLimits { max_line_bytes: 5, max_chunks: 4, ..FramingLimits::default() }
    }

    fn split(separator: &str) -> Box<dyn Interceptor> {
        let spec = InterceptorSpec::named("separate").unwrap().with("separator", separator).unwrap();
        spec.build(Direction::Incoming, &limits()).unwrap()
    }

    /// Feeds pieces and the end, and returns the messages and the number of errors.
    fn feed<'a>(split: &mut dyn Interceptor, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, usize) {
        let mut errors = 0;
        let mut messages = Vec::new();
        for piece in pieces {
            let mut out = Vec::new();
            errors += split.process(Chunk::new(piece.to_vec(), 0), &mut out).err().map_or(0, |error| {
                assert!(!error.ends_stream());
                error.count()
            });
            messages.append(&mut out);
        }
        errors += split.finish(&mut messages).err().map_or(0, |error| error.count());
        (messages.iter().map(|chunk| String::from_utf8(chunk.bytes.to_vec()).unwrap()).collect(), errors)
    }

    #[test]
    fn an_over_long_message_is_one_error_and_skipped_to_its_separator_wherever_it_is_cut() {
        let text = b"ab--cdefgh-i--12345--123456--x-y--end";
        let expected = (["ab", "12345", "x-y", "end"].map(str::to_owned).to_vec(), 2);
        for size in 1..=text.len() {
            let got = feed(&mut *split("--"), text.chunks(size).collect::<Vec<_>>());
            // One chunk gives at most four messages, and these are exactly four.
            assert_eq!(got, expected, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn a_separator_that_overlaps_itself_is_found_leftmost_wherever_it_is_cut() {
        let text = b"aXXXbXXXXc";
        for size in 1..=text.len() {
            let got = feed(&mut *split("XX"), text.chunks(size).collect::<Vec<_>>());
            assert_eq!(got, (["a", "Xb", "", "c"].map(str::to_owned).to_vec(), 0), "in pieces of {size} bytes");
        }
    }

    #[test]
    fn the_limit_counts_the_message_and_not_its_line_end() {
        let lines = || InterceptorSpec::named("lines").unwrap().build(Direction::Incoming, &limits()).unwrap();
        let text = b"12345\r\n123456\r\nA\0\rB\r\n\n";
        for size in 1..=text.len() {
            let got = feed(&mut *lines(), text.chunks(size).collect::<Vec<_>>());
            assert_eq!(got, (["12345", "A\0\rB", ""].map(str::to_owned).to_vec(), 1), "in pieces of {size} bytes");
        }
        assert_eq!(feed(&mut *lines(), [b"12345\r".as_slice()]), (vec![], 1), "an open line keeps its \\r");
        assert_eq!(feed(&mut *lines(), [b"".as_slice()]), (vec![], 0));
    }

    #[test]
    fn too_many_messages_in_a_chunk_are_counted_and_the_next_chunk_is_read() {
        let got = feed(&mut *split("|"), [b"1|2|3|4|5|6|7".as_slice(), b"|8"]);
        assert_eq!(got, (["1", "2", "3", "4", "7", "8"].map(str::to_owned).to_vec(), 2));
    }

    #[test]
    fn a_message_that_would_not_come_back_is_refused() {
        let append = |name: &str, separator: Option<&str>, message: &'static str| {
            let mut spec = InterceptorSpec::named(name).unwrap();
            if let Some(separator) = separator {
                spec = spec.with("separator", separator).unwrap();
            }
            let mut out = Vec::new();
            let mut append = spec.build(Direction::Outgoing, &limits()).unwrap();
            append.process(Chunk::new(message, 0), &mut out).map(|()| out[0].bytes.clone())
        };
        assert_eq!(append("lines", None, "a\rb").unwrap(), "a\rb\n");
        assert_eq!(append("separate", Some("||"), "a|b").unwrap(), "a|b||");
        for (name, separator, message) in
            [("lines", None, "a\nb"), ("lines", None, "a\r"), ("separate", Some("||"), "a|"), ("lines", None, "123456")]
        {
            assert!(append(name, separator, message).is_err(), "{name} {message:?}");
        }
    }

    #[test]
    fn a_rest_never_grows_over_the_limit() {
        let mut split = Split::new("lines", Separator::lines(), &limits());
        for _ in 0..1000 {
            let _ = split.process(Chunk::new(vec![b'x'; 1000], 0), &mut Vec::new());
            assert!(split.rest.len() <= 6, "{}", split.rest.len());
        }
    }
}
