//! `chunk`: gathers small chunks, so that few large ones go out.

use bytes::BytesMut;
use serde::Deserialize;

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;
use crate::peer::framing::limits::FramingLimits;
use crate::peer::framing::named::Named;

const NAME: &str = "chunk";

/// Default of `max_bytes`.
const DEFAULT_MAX_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct GatherSettings {
    max_bytes: usize,
}

impl Default for GatherSettings {
    fn default() -> Self {
        GatherSettings { max_bytes: DEFAULT_MAX_BYTES }
    }
}

impl GatherSettings {
    pub(super) fn read(named: &Named) -> Result<usize, FramingError> {
        match named.read::<Self>(NAME)?.max_bytes {
            0 => Err(FramingError::settings(NAME, "`max_bytes` is 0: it is the size of a chunk")),
            max_bytes => Ok(max_bytes),
        }
    }
}

/// Joins chunks up to a size. A longer chunk passes alone. Incoming, every chunk passes.
pub(super) struct Gather {
    max_bytes: usize,
    incoming: bool,
    gathered: BytesMut,
    ingest_ns: u64,
}

impl Gather {
    pub(super) fn new(max_bytes: usize, incoming: bool, limits: &FramingLimits) -> Result<Self, FramingError> {
        if max_bytes > limits.max_buffered_bytes {
            let limit = limits.max_buffered_bytes;
            let problem = format!("`max_bytes` is {max_bytes}, over the limit `max_buffered_bytes` of {limit}");
            return Err(FramingError::settings(NAME, problem));
        }
        Ok(Gather { max_bytes, incoming, gathered: BytesMut::new(), ingest_ns: 0 })
    }

    fn release(&mut self, out: &mut Vec<Chunk>) {
        if !self.gathered.is_empty() {
            out.push(Chunk::new(self.gathered.split(), self.ingest_ns));
        }
    }
}

impl Interceptor for Gather {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if self.incoming {
            out.push(chunk);
            return Ok(());
        }
        if self.gathered.len() + chunk.bytes.len() > self.max_bytes {
            self.release(out);
        }
        if chunk.bytes.len() >= self.max_bytes {
            out.push(chunk);
            return Ok(());
        }
        self.gathered.extend_from_slice(&chunk.bytes);
        self.ingest_ns = chunk.ingest_ns;
        if self.gathered.len() == self.max_bytes {
            self.release(out);
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        self.release(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        self.release(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_joined_and_a_long_one_passes_in_its_place() {
        let mut gather = Gather::new(4, false, &FramingLimits::default()).unwrap();
        let mut out = Vec::new();
        for (at, bytes) in ["a", "bc", "de", "", "fg", "h", "12345", "i"].into_iter().enumerate() {
            gather.process(Chunk::new(bytes, u64::try_from(at).unwrap()), &mut out).unwrap();
        }
        gather.finish(&mut out).unwrap();
        gather.finish(&mut out).unwrap();
        let expected = [("abc", 1), ("defg", 4), ("h", 5), ("12345", 6), ("i", 7)];
        assert_eq!(out, expected.map(|(bytes, at)| Chunk::new(bytes, at)));
    }

    #[test]
    fn incoming_chunks_pass() {
        let mut gather = Gather::new(4, true, &FramingLimits::default()).unwrap();
        let mut out = Vec::new();
        gather.process(Chunk::new("a", 1), &mut out).unwrap();
        assert_eq!(out, [Chunk::new("a", 1)]);
    }
}
