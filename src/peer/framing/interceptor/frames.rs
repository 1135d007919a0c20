//! `length-prefixed` and `textual-length-prefixed`: messages with their length in front.

use bytes::{Buf, BytesMut};
use serde::Deserialize;

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::{Faults, FramingError};
use crate::peer::framing::limits::FramingLimits;
use crate::peer::framing::named::Named;

/// Most digits of a length: those of the largest 64-bit number.
const MAX_DIGITS: usize = 20;

/// Longest header, in bytes: the digits and a space.
const MAX_HEADER_BYTES: usize = MAX_DIGITS + 1;

/// Number of bytes of a binary length: 1, 2, 4 or 8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Width(usize);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WidthSettings {
    width: usize,
}

impl Default for WidthSettings {
    fn default() -> Self {
        WidthSettings { width: 4 }
    }
}

impl Width {
    pub(super) fn read(named: &Named) -> Result<Self, FramingError> {
        match named.read::<WidthSettings>("length-prefixed")?.width {
            width @ (1 | 2 | 4 | 8) => Ok(Width(width)),
            width => {
                let problem = format!("`width` is {width}: use 1, 2, 4 or 8");
                Err(FramingError::settings("length-prefixed", problem))
            }
        }
    }
}

/// The form of the length in front of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    /// A big-endian number.
    Binary(Width),
    /// Decimal digits and a space.
    Text,
}

impl Header {
    fn name(self) -> &'static str {
        match self {
            Header::Binary(_) => "length-prefixed",
            Header::Text => "textual-length-prefixed",
        }
    }

    /// Reads the length of a header and of its body, or `None` when the header is not complete.
    fn read(self, bytes: &[u8]) -> Result<Option<(usize, u64)>, FramingError> {
        let Header::Binary(Width(width)) = self else { return self.read_text(bytes) };
        let length = |number: &[u8]| number.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte));
        Ok(bytes.get(..width).map(|number| (width, length(number))))
    }

    fn read_text(self, bytes: &[u8]) -> Result<Option<(usize, u64)>, FramingError> {
        let bad =
            |problem: &str| FramingError::Invalid { part: self.name(), problem: problem.to_owned(), ends_stream: true };
        let mut length = 0_u64;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b' ' if at > 0 => return Ok(Some((at + 1, length))),
                b'0'..=b'9' if at < MAX_DIGITS => {
                    let longer = length.checked_mul(10).and_then(|length| length.checked_add(u64::from(byte - b'0')));
                    length = longer.ok_or_else(|| bad("the length in front of a message is over 64 bits"))?;
                }
                _ => return Err(bad("a message does not begin with a decimal length and a space")),
            }
        }
        Ok(None)
    }

    fn write(self, length: usize) -> Option<Vec<u8>> {
        let Header::Binary(Width(width)) = self else { return Some(format!("{length} ").into_bytes()) };
        let number = u64::try_from(length).ok()?.to_be_bytes();
        let (unused, header) = number.split_at_checked(number.len() - width)?;
        unused.iter().all(|byte| *byte == 0).then(|| header.to_vec())
    }
}

/// Takes the lengths off, and gives each frame as a chunk.
pub(super) struct Deframe {
    header: Header,
    max_frame_bytes: usize,
    max_chunks: usize,
    /// The beginning of a frame, with its header.
    rest: BytesMut,
}

impl Deframe {
    pub(super) fn new(header: Header, limits: &FramingLimits) -> Self {
        let FramingLimits { max_frame_bytes, max_chunks, .. } = *limits;
        Deframe { header, max_frame_bytes, max_chunks, rest: BytesMut::new() }
    }

    /// Returns the lengths of the header and of the whole frame that begins in the rest and goes on in these bytes.
    fn frame(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, FramingError> {
        let head: Vec<u8> = self.rest.iter().chain(bytes).take(MAX_HEADER_BYTES).copied().collect();
        let Some((header, length)) = self.header.read(&head)? else { return Ok(None) };
        match usize::try_from(length) {
            Ok(length) if length <= self.max_frame_bytes => Ok(Some((header, header + length))),
            _ => Err(over_long(self.header, self.max_frame_bytes, true)),
        }
    }
}

fn over_long(header: Header, limit: usize, ends_stream: bool) -> FramingError {
    let what = "a frame of more bytes";
    FramingError::OverLimit { part: header.name(), what, limit, setting: "max_frame_bytes", ends_stream }
}

impl Interceptor for Deframe {
    fn name(&self) -> &'static str {
        self.header.name()
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let Chunk { mut bytes, ingest_ns } = chunk;
        let mut faults = Faults::default();
        while !bytes.is_empty() {
            let (header, length) = match self.frame(&bytes) {
                Ok(Some(frame)) if self.rest.len() + bytes.len() >= frame.1 => frame,
                Ok(_) => {
                    self.rest.extend_from_slice(&bytes);
                    break;
                }
                Err(error) => {
                    faults.add(error);
                    self.rest.clear();
                    break;
                }
            };
            let mut frame = bytes.split_to(length.saturating_sub(self.rest.len()));
            if !self.rest.is_empty() {
                self.rest.extend_from_slice(&frame);
                frame = self.rest.split().freeze();
            }
            frame.advance(header);
            match out.len() < self.max_chunks {
                true => out.push(Chunk::new(frame, ingest_ns)),
                false => faults.add(FramingError::too_many(self.name(), self.max_chunks)),
            }
        }
        faults.into_result()
    }

    fn finish(&mut self, _out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        match self.rest.split().is_empty() {
            true => Ok(()),
            false => Err(FramingError::Incomplete { part: self.name(), what: "a frame" }),
        }
    }

    fn spans_chunks(&self) -> bool {
        true
    }
}

/// Puts its length in front of each message.
pub(super) struct Frame {
    header: Header,
    max_frame_bytes: usize,
}

impl Frame {
    pub(super) fn new(header: Header, limits: &FramingLimits) -> Self {
        Frame { header, max_frame_bytes: limits.max_frame_bytes }
    }
}

impl Interceptor for Frame {
    fn name(&self) -> &'static str {
        self.header.name()
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let length = chunk.bytes.len();
        if length > self.max_frame_bytes {
            return Err(over_long(self.header, self.max_frame_bytes, false));
        }
        let Some(mut bytes) = self.header.write(length) else {
            let problem = format!("its length of {length} bytes needs a larger `width`");
            return Err(FramingError::unwritable(self.name(), problem));
        };
        bytes.extend_from_slice(&chunk.bytes);
        out.push(Chunk::new(bytes, chunk.ingest_ns));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> FramingLimits {
        FramingLimits { max_frame_bytes: 300, max_chunks: 3, ..FramingLimits::default() }
    }

    fn run(header: Header, chunk: &'static [u8]) -> (Vec<Chunk>, Option<FramingError>, Option<FramingError>) {
        let (mut out, mut deframe) = (Vec::new(), Deframe::new(header, &limits()));
        let error = deframe.process(Chunk::new(chunk, 7), &mut out).err();
        let at_end = deframe.finish(&mut out).err();
        (out, error, at_end)
    }

    #[test]
    fn lengths_are_big_endian_and_may_be_nothing() {
        let (out, error, at_end) = run(Header::Binary(Width(2)), b"\0\x02hi\0\0\0\x01\0");
        assert_eq!(out, [Chunk::new("hi", 7), Chunk::new("", 7), Chunk::new("\0", 7)]);
        assert!(error.is_none() && at_end.is_none());
        let (out, ..) = run(Header::Text, b"2 hi0 005 a b c");
        assert_eq!(out, [Chunk::new("hi", 7), Chunk::new("", 7), Chunk::new("a b c", 7)]);
    }

    #[test]
    fn half_a_frame_at_the_end_is_an_error() {
        for (header, half) in [
            (Header::Binary(Width(4)), b"\0\0\0\x05hell".as_slice()),
            (Header::Binary(Width(8)), b"\0"),
            (Header::Text, b"5 hell"),
            (Header::Text, b"5"),
        ] {
            let (out, error, at_end) = run(header, half);
            assert!(out.is_empty() && error.is_none());
            assert!(matches!(at_end, Some(FramingError::Incomplete { .. })), "{half:?}: {at_end:?}");
        }
    }

    #[test]
    fn a_length_over_the_limit_ends_the_stream_and_names_the_setting() {
        for (header, wrong) in [
            (Header::Binary(Width(4)), b"\0\0\0\x01a\xff\xff\xff\xffrest".as_slice()),
            (Header::Binary(Width(8)), b"\0\0\0\0\0\0\0\x01a\xff\xff\xff\xff\xff\xff\xff\xffrest"),
            (Header::Binary(Width(2)), b"\0\x01a\x01\x2drest"),
            (Header::Text, b"1 a301 rest"),
            (Header::Text, b"1 a18446744073709551615 rest"),
        ] {
            let (out, error, _) = run(header, wrong);
            assert_eq!(out, [Chunk::new("a", 7)]);
            let error = error.unwrap();
            assert!(error.ends_stream());
            assert!(error.to_string().contains("300") && error.to_string().contains("max_frame_bytes"), "{error}");
        }
    }

    #[test]
    fn a_text_that_is_no_length_ends_the_stream() {
        for wrong in [b"x".as_slice(), b" 1", b"-1 a", b"99999999999999999999 ", b"000000000000000000001 a"] {
            let (_, error, _) = run(Header::Text, wrong);
            assert!(error.is_some_and(|error| error.ends_stream()), "{wrong:?}");
        }
    }

    #[test]
    fn frames_beyond_the_number_of_chunks_are_counted_and_the_stream_lives() {
        let mut deframe = Deframe::new(Header::Binary(Width(1)), &limits());
        let mut out = Vec::new();
        let error = deframe.process(Chunk::new(vec![0; 10], 0), &mut out).unwrap_err();
        assert_eq!((out.len(), error.count(), error.ends_stream()), (3, 7, false));
        out.clear();
        deframe.process(Chunk::new("\u{2}hi", 0), &mut out).unwrap();
        assert_eq!(out, [Chunk::new("hi", 0)]);
    }

    #[test]
    fn a_message_that_its_width_cannot_count_is_refused() {
        let mut frame = Frame::new(Header::Binary(Width(1)), &limits());
        let mut out = Vec::new();
        frame.process(Chunk::new(vec![1; 255], 0), &mut out).unwrap();
        assert_eq!((out[0].bytes.len(), out[0].bytes[0]), (256, 255));
        assert!(frame.process(Chunk::new(vec![1; 256], 0), &mut out).unwrap_err().to_string().contains("`width`"));
        assert!(matches!(
            frame.process(Chunk::new(vec![1; 301], 0), &mut out),
            Err(FramingError::OverLimit { ends_stream: false, .. })
        ));
    }
}
