//! `base64`: each chunk as text of RFC 4648.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Interceptor;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const NAME: &str = "base64";

/// Writes the padding, and reads text with or without it.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads text.
pub(super) struct Decode;

impl Interceptor for Decode {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let bytes = ENGINE.decode(&chunk.bytes).map_err(|error| FramingError::invalid(NAME, error))?;
        out.push(Chunk::new(bytes, chunk.ingest_ns));
        Ok(())
    }
}

/// Writes text.
pub(super) struct Encode;

impl Interceptor for Encode {
    fn name(&self) -> &'static str {
        NAME
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        out.push(Chunk::new(ENGINE.encode(&chunk.bytes), chunk.ingest_ns));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_optional_and_anything_else_is_refused() {
        let mut out = Vec::new();
        for text in ["aA==", "aA", ""] {
            Decode.process(Chunk::new(text, 1), &mut out).unwrap();
        }
        assert_eq!(out, [Chunk::new("h", 1), Chunk::new("h", 1), Chunk::new("", 1)]);
        for wrong in ["aA==\n", "a\0", "*", "aB", "a"] {
            let error = Decode.process(Chunk::new(wrong, 1), &mut out).unwrap_err();
            assert!(!error.ends_stream(), "{wrong:?}");
        }
    }
}
