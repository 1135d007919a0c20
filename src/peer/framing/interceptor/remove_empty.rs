//! `remove-empty`: drops chunks without bytes.

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const NAME: &str = "remove-empty";

/// Drops chunks without bytes, in both directions.
pub(super) struct RemoveEmpty;

impl Interceptor for RemoveEmpty {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if !chunk.bytes.is_empty() {
            out.push(chunk);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_without_bytes_is_dropped() {
        let mut out = Vec::new();
        for bytes in ["", "\0", ""] {
            RemoveEmpty.process(Chunk::new(bytes, 1), &mut out).unwrap();
        }
        assert_eq!(out, [Chunk::new("\0", 1)]);
    }
}
