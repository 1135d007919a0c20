//! `msgpack`: one value of MessagePack a message, as JSON in the eventbox.

use std::fmt;
use std::io::Cursor;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::json_text::check;
use super::{Codec, Decoded};
use crate::json::MAX_JSON_DEPTH;
use crate::peer::framing::bounded::Bounded;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;
use crate::peer::framing::limits::FramingLimits;

pub(super) const NAME: &str = "msgpack";

/// The codec.
pub(super) struct Msgpack {
    max_output_bytes: usize,
}

impl Msgpack {
    pub(super) fn new(limits: &FramingLimits) -> Self {
        Msgpack { max_output_bytes: limits.max_output_bytes }
    }

    fn over_long(&self) -> FramingError {
        let (what, limit) = ("a value that is JSON of more bytes", self.max_output_bytes);
        FramingError::OverLimit { part: NAME, what, limit, setting: "max_output_bytes", ends_stream: false }
    }
}

impl Codec for Msgpack {
    fn content_type(&self) -> &'static str {
        "application/msgpack"
    }

    fn decode(&mut self, chunk: Chunk, out: &mut Vec<Decoded>) -> Result<(), FramingError> {
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        let mut json = Bounded::new(self.max_output_bytes);
        let mut reader = rmp_serde::Deserializer::new(Cursor::new(&*chunk.bytes));
        if let Err(error) = (ToJson { out: &mut json, depth: 0 }).deserialize(&mut reader) {
            let over = json.is_over();
            return Err(if over { self.over_long() } else { FramingError::invalid(NAME, error) });
        }
        if reader.position() < chunk.bytes.len() as u64 {
            return Err(FramingError::invalid(NAME, "more bytes follow its value: use an interceptor with lengths"));
        }
        out.push(Decoded::new(json.into_bytes(), chunk.ingest_ns));
        Ok(())
    }

    fn encode(&mut self, value: &[u8], out: &mut Vec<Bytes>) -> Result<(), FramingError> {
        let text = check(value).map_err(|problem| FramingError::unwritable(NAME, problem))?;
        let value: Value = serde_json::from_str(text).map_err(|error| FramingError::unwritable(NAME, error))?;
        let message = rmp_serde::to_vec(&value).map_err(|error| FramingError::unwritable(NAME, error))?;
        out.push(message.into());
        Ok(())
    }
}

/// Writes a value of MessagePack as JSON, at once, because a tree of values would need many times its memory.
struct ToJson<'a> {
    out: &'a mut Bounded,
    depth: usize,
}

impl ToJson<'_> {
    fn put<E: Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.put(bytes).map_err(E::custom)
    }

    fn write<E: Error>(self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(self.out, value).map_err(E::custom)
    }

    /// Returns the writer of a value inside this one.
    fn inner<E: Error>(&mut self) -> Result<ToJson<'_>, E> {
        match self.depth < MAX_JSON_DEPTH {
            true => Ok(ToJson { out: self.out, depth: self.depth + 1 }),
            false => Err(E::custom(format!("it is nested deeper than {MAX_JSON_DEPTH} levels"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for ToJson<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Methods of a visitor that write a value as JSON has it.
macro_rules! as_json {
    ($($method:ident($type:ty),)+) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<(), E> {
            self.write(&value)
        })+
    };
}

impl<'de> Visitor<'de> for ToJson<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has: nil, a boolean, a number, a string, an array or a map")
    }

    as_json! { visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_str(&str), }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match value.is_finite() {
            true => self.write(&value),
            false => Err(E::custom("it has a number that is not finite, which JSON does not have")),
        }
    }

    fn visit_bytes<E: Error>(self, _bytes: &[u8]) -> Result<(), E> {
        Err(E::custom("it has binary data, or a string that is not UTF-8, which JSON does not have"))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _extension: D) -> Result<(), D::Error> {
        Err(D::Error::custom("it has an extension type, which JSON does not have"))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write(&())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.put(b"[")?;
        let mut first = true;
        loop {
            let comma = if first { b"".as_slice() } else { b"," };
            let inner = Entry { writer: self.inner()?, before: comma };
            if seq.next_element_seed(inner)?.is_none() {
                return self.put(b"]");
            }
            first = false;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.put(b"{")?;
        let mut first = true;
        loop {
            let comma = if first { b"".as_slice() } else { b"," };
            if map.next_key_seed(Key(Entry { writer: self.inner()?, before: comma }))?.is_none() {
                return self.put(b"}");
            }
            map.next_value_seed(Entry { writer: self.inner()?, before: b":" })?;
            first = false;
        }
    }
}

/// A value with the bytes that stand before it.
struct Entry<'a> {
    writer: ToJson<'a>,
    before: &'static [u8],
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        self.writer.put(self.before)?;
        self.writer.deserialize(deserializer)
    }
}

/// The key of a map, which must be a string.
struct Key<'a>(Entry<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        self.0.writer.put(self.0.before)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as the key of a map, as JSON has it")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.0.writer.write(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<String, FramingError> {
        let mut out = Vec::new();
        let limits = FramingLimits { max_output_bytes: 1000, ..FramingLimits::default() };
        Msgpack::new(&limits).decode(Chunk::new(bytes.to_vec(), 0), &mut out)?;
        Ok(out.iter().map(|decoded| String::from_utf8(decoded.value.to_vec()).unwrap()).collect())
    }

    #[test]
    fn json_values_go_there_and_back() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,0.1,"\u0000ü"],"b":{},"c":[]}"#;
        let mut messages = Vec::new();
        Msgpack::new(&FramingLimits::default()).encode(text.as_bytes(), &mut messages).unwrap();
        let back: Value = serde_json::from_str(&decode(&messages[0]).unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(decode(b"\xca\x3f\x80\0\0").unwrap(), "1.0");
    }

    #[test]
    fn what_json_does_not_have_is_refused() {
        let wrong: [(&[u8], &str); 9] = [
            (b"\xc4\x01a", "binary data"),
            (b"\xa1\xff", "utf8"),
            (b"\xd4\x05a", "extension type"),
            (b"\xd6\xff\0\0\0\0", "extension type"),
            (b"\xcb\x7f\xf8\0\0\0\0\0\0", "not finite"),
            (b"\x81\x01\x02", "key of a map"),
            (b"\x92\x01", ""),
            (b"\xc1", ""),
            (b"\x01\x02", "more bytes follow"),
        ];
        for (bytes, problem) in wrong {
            let error = decode(bytes).unwrap_err();
            assert!(!error.ends_stream());
            assert!(error.to_string().contains(problem), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn hostile_lengths_and_nesting_are_refused() {
        assert!(decode(b"\xdd\xff\xff\xff\xff").is_err());
        assert!(decode(b"\xdb\xff\xff\xff\xffabc").is_err());
        assert!(decode(&[0x91; 1_000_000]).unwrap_err().to_string().contains("120"));
        assert!(decode(&[&[0x91_u8; 119][..], b"\x90"].concat()).is_ok());
        let long = [b"\xdc\x02\0".as_slice(), &[0xc0; 512]].concat();
        assert!(decode(&long).unwrap_err().to_string().contains("max_output_bytes"));
        let nested = format!("{}{}", "[".repeat(121), "]".repeat(121));
        assert!(Msgpack::new(&FramingLimits::default()).encode(nested.as_bytes(), &mut Vec::new()).is_err());
    }
}
