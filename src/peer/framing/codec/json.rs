//! `json`: one document a message.

use bytes::Bytes;
use serde::Deserialize;

use super::json_text::{check, compact, is_blank, sort};
use super::{Codec, Decoded};
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;

pub(super) const NAME: &str = "json";

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct JsonSettings {
    mode: Mode,
}

/// The order of the keys of an object.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// As the sender wrote them.
    #[default]
    Unsorted,
    /// In byte order, so that equal documents have equal bytes.
    Sorted,
}

impl JsonSettings {
    pub(super) fn is_sorted(&self) -> bool {
        self.mode == Mode::Sorted
    }
}

/// The codec.
pub(super) struct Json {
    sorted: bool,
}

impl Json {
    pub(super) fn new(sorted: bool) -> Self {
        Json { sorted }
    }

    fn sort(text: &str) -> Result<Vec<u8>, String> {
        sort(text).ok_or_else(|| "its keys cannot be sorted".to_owned())
    }
}

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        if is_blank(&chunk.bytes) {
            return Ok(());
        }
        let text = check(&chunk.bytes).map_err(|problem| FramingError::invalid(NAME, problem))?;
        let value = match self.sorted {
            true => Self::sort(text).map_err(|problem| FramingError::invalid(NAME, problem))?.into(),
            false => chunk.bytes.slice_ref(text.as_bytes()),
        };
        out.push(Decoded::new(value, chunk.ingest_ns));
        Ok(())
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        let text = check(value).map_err(|problem| FramingError::unwritable(NAME, problem))?;
        let message = match self.sorted {
            true => Self::sort(text).map_err(|problem| FramingError::unwritable(NAME, problem))?,
            false => compact(text),
        };
        out.push(message.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = " {\"b\": 1,\n \"a\": [ ]}\n";

    #[test]
    fn a_document_is_kept_or_sorted_and_written_compactly() {
        let (mut values, mut messages) = (Vec::new(), Vec::new());
        for sorted in [false, true] {
            let mut json = Json::new(sorted);
            json.decode(Chunk::new(TEXT, 3), &mut values).unwrap();
            json.encode(TEXT.as_bytes(), &mut messages).unwrap();
        }
        assert_eq!(values, [TEXT.trim(), r#"{"a":[],"b":1}"#].map(|text| Decoded::new(text, 3)));
        assert_eq!(messages, [r#"{"b":1,"a":[]}"#, r#"{"a":[],"b":1}"#]);
    }

    #[test]
    fn an_empty_chunk_is_nothing_and_a_wrong_one_an_error() {
        let mut values = Vec::new();
        for blank in ["", " \r\n"] {
            Json::new(false).decode(Chunk::new(blank, 0), &mut values).unwrap();
        }
        assert!(values.is_empty());
        for wrong in ["{", "1\n2", "\0"] {
            let error = Json::new(true).decode(Chunk::new(wrong, 0), &mut values).unwrap_err();
            assert!(!error.ends_stream(), "{wrong:?}");
            assert!(Json::new(true).encode(wrong.as_bytes(), &mut Vec::new()).is_err());
        }
        assert!(Json::new(false).encode(b"", &mut Vec::new()).is_err(), "no document is no message");
    }
}
