//! `string` and `binary`: the bytes of a message are the value.

use bytes::Bytes;

use super::{Codec, Decoded};
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const STRING: &str = "string";
pub(super) const BINARY: &str = "binary";

/// Text in UTF-8.
pub(super) struct Text;

impl Codec for Text {
    fn content_type(&self) -> &'static str {
        "text/plain"
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        std::str::from_utf8(&chunk.bytes).map_err(|error| FramingError::invalid(STRING, error))?;
        out.push(Decoded::new(chunk.bytes, chunk.ingest_ns));
        Ok(())
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        std::str::from_utf8(value).map_err(|error| FramingError::unwritable(STRING, error))?;
        out.push(Bytes::copy_from_slice(value));
        Ok(())
    }
}

/// Any bytes.
pub(super) struct Binary;

impl Codec for Binary {
    fn content_type(&self) -> &'static str {
        "application/octet-stream"
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        out.push(Decoded::new(chunk.bytes, chunk.ingest_ns));
        Ok(())
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        out.push(Bytes::copy_from_slice(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf_8_and_bytes_are_anything() {
        let (mut values, mut messages) = (Vec::new(), Vec::new());
        for good in ["", "a\0b", "ü"] {
            Text.decode(Chunk::new(good, 1), &mut values).unwrap();
            Text.encode(good.as_bytes(), &mut messages).unwrap();
        }
        assert_eq!(values, ["", "a\0b", "ü"].map(|text| Decoded::new(text, 1)));
        assert_eq!(messages, ["", "a\0b", "ü"]);
        assert!(Text.decode(Chunk::new(b"\xff".to_vec(), 1), &mut values).is_err());
        assert!(Text.encode(b"\xff", &mut messages).is_err());
        Binary.decode(Chunk::new(b"\xff\0".to_vec(), 1), &mut values).unwrap();
        Binary.encode(b"\xff\0", &mut messages).unwrap();
        assert_eq!(
            (values.pop().unwrap().value, messages.pop().unwrap()),
            (b"\xff\0"[..].into(), b"\xff\0"[..].into())
        );
    }
}
