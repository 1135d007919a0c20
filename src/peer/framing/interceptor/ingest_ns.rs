//! `ingest-ns`: the time of arrival in front of each chunk, as 8 bytes, big endian.

use bytes::Buf;

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const NAME: &str = "ingest-ns";

/// Takes the time off, and sets it.
pub(super) struct Take;

impl Interceptor for Take {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, mut chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if chunk.bytes.len() < size_of::<u64>() {
            return Err(FramingError::invalid(NAME, "it has fewer than the 8 bytes of a time"));
        }
        chunk.ingest_ns = chunk.bytes.get_u64();
        out.push(chunk);
        Ok(())
    }
}

/// Puts the time in front.
pub(super) struct Put;

impl Interceptor for Put {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let mut bytes = Vec::with_capacity(size_of::<u64>() + chunk.bytes.len());
        bytes.extend_from_slice(&chunk.ingest_ns.to_be_bytes());
        bytes.extend_from_slice(&chunk.bytes);
        out.push(Chunk::new(bytes, chunk.ingest_ns));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_travels_in_front() {
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        Put.process(Chunk::new("hi", 258), &mut sent).unwrap();
        assert_eq!(sent, [Chunk::new(b"\0\0\0\0\0\0\x01\x02hi".to_vec(), 258)]);
        Take.process(Chunk::new(sent[0].bytes.clone(), 9), &mut got).unwrap();
        assert_eq!(got, [Chunk::new("hi", 258)]);
        assert!(!Take.process(Chunk::new("1234567", 9), &mut got).unwrap_err().ends_stream());
    }
}
