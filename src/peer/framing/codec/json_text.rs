//! JSON as text that keeps its numbers and strings: checked, made compact, sorted.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::json::MAX_JSON_DEPTH;

/// Returns the text of one JSON document without the white space around it, or the problem with it.
///
/// Everything is refused that a reader of the value would refuse: bytes that are not UTF-8, a second document, a number
/// that is out of range, half of a surrogate pair, and nesting over [`MAX_JSON_DEPTH`].
pub(super) fn check(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if depth(text) > MAX_JSON_DEPTH {
        return Err(format!("it is nested deeper than {MAX_JSON_DEPTH} levels"));
    }
    serde_json::from_str::<Readable>(text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Returns whether the bytes have nothing but the white space of JSON.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Follows the strings of a JSON text.
#[derive(Default)]
struct Quotes {
    inside: bool,
    escaped: bool,
}

impl Quotes {
    /// Takes the next byte, and returns whether it is a part of a string.
    fn holds(&mut self, byte: u8) -> bool {
        let was_inside = self.inside;
        match (self.inside, self.escaped, byte) {
            (true, true, _) => self.escaped = false,
            (true, false, b'\\') => self.escaped = true,
            (_, false, b'"') => self.inside = !self.inside,
            _ => {}
        }
        was_inside || self.inside
    }
}

/// Returns the deepest nesting of arrays and objects. The text need not be valid.
pub(super) fn depth(text: &str) -> usize {
    let (mut quotes, mut depth, mut deepest) = (Quotes::default(), 0_usize, 0);
    for byte in text.bytes() {
        match byte {
            _ if quotes.holds(byte) => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A value that is read as any reader would read it, and not kept.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Readable)
    }
}

/// Methods of a visitor that take a value and forget it.
macro_rules! forget {
    ($($method:ident($type:ty),)+) => {
        $(fn $method<E>(self, _value: $type) -> Result<Readable, E> {
            Ok(Readable)
        })+
    };
}

impl<'de> Visitor<'de> for Readable {
    type Value = Readable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    forget! { visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str), }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Readable, A::Error> {
        while seq.next_element::<Readable>()?.is_some() {}
        Ok(Readable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Readable, A::Error> {
        while map.next_entry::<Readable, Readable>()?.is_some() {}
        Ok(Readable)
    }
}

/// Returns a checked text without the white space between its tokens.
pub(super) fn compact(text: &str) -> Vec<u8> {
    let mut quotes = Quotes::default();
    text.bytes().filter(|byte| quotes.holds(*byte) || !is_blank(&[*byte])).collect()
}

/// Returns a checked text that is compact, with the keys of every object in byte order.
///
/// Equal keys of an object stay in their order. Returns `None` for a text that was not checked.
pub(super) fn sort(text: &str) -> Option<Vec<u8>> {
    let compact = compact(text);
    let mut sorted = Vec::with_capacity(compact.len());
    Tokens { rest: &compact }.value(&mut sorted)?;
    Some(sorted)
}

/// The rest of a compact JSON text.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes the next byte if it is the wanted one.
    fn skip(&mut self, byte: u8) -> bool {
        let there = self.rest.first() == Some(&byte);
        there && self.take(1).is_some()
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let mut quotes = Quotes::default();
        let length = self.rest.iter().take_while(|byte| quotes.holds(**byte) && quotes.inside).count() + 1;
        self.take(length)
    }

    fn value(&mut self, out: &mut Vec<u8>) -> Option<()> {
        match self.rest.first()? {
            b'{' => self.object(out),
            b'[' => self.array(out),
            b'"' => self.string().map(|string| out.extend_from_slice(string)),
            _ => {
                let length = self.rest.iter().take_while(|byte| !matches!(byte, b',' | b']' | b'}')).count();
                self.take(length).map(|scalar| out.extend_from_slice(scalar))
            }
        }
    }

    fn array(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.take(1)?;
        out.push(b'[');
        while !self.skip(b']') {
            if self.skip(b',') {
                out.push(b',');
            }
            self.value(out)?;
        }
        out.push(b']');
        Some(())
    }

    fn object(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.take(1)?;
        let mut members: Vec<(String, Vec<u8>)> = Vec::new();
        while !self.skip(b'}') {
            self.skip(b',');
            let key = self.string()?;
            let mut member = key.to_vec();
            member.extend_from_slice(self.take(1)?);
            self.value(&mut member)?;
            members.push((serde_json::from_slice(key).ok()?, member));
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        let members: Vec<Vec<u8>> = members.into_iter().map(|(_, member)| member).collect();
        out.push(b'{');
        out.extend_from_slice(&members.join(&b','));
        out.push(b'}');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_a_reader_refuses_are_refused() {
        for wrong in ["{", "[1,]", "{'a':1}", "1 2", "nul", "1e400", r#""\ud800""#, "\"\u{1}\"", "\u{feff}1", "", "01"]
        {
            assert!(check(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(check(b"\"\xff\"").is_err());
        assert_eq!(check(b" \r\n[1 ]\t").unwrap(), "[1 ]");
        assert_eq!(check(br#"{"a":1,"a":2}"#).unwrap(), r#"{"a":1,"a":2}"#);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(MAX_JSON_DEPTH).as_bytes()).is_ok());
        for text in [nested(MAX_JSON_DEPTH + 1), nested(1_000_000), "[".repeat(1_000_000), "{\"a\":".repeat(1_000_000)]
        {
            assert!(check(text.as_bytes()).unwrap_err().contains("120"));
        }
        assert!(check(format!("\"{}\"", "[".repeat(1000)).as_bytes()).is_ok(), "brackets in a string are no nesting");
    }

    #[test]
    fn numbers_and_strings_keep_their_text() {
        let text =
            r#" { "b" : [ 1.10 , 123456789012345678901234567890, -0 ], "a\u0062" : " \" } ", "a" : { } , "c":[] } "#;
        let text = check(text.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(compact(text)).unwrap(),
            r#"{"b":[1.10,123456789012345678901234567890,-0],"a\u0062":" \" } ","a":{},"c":[]}"#
        );
        assert_eq!(
            String::from_utf8(sort(text).unwrap()).unwrap(),
            r#"{"a":{},"a\u0062":" \" } ","b":[1.10,123456789012345678901234567890,-0],"c":[]}"#
        );
        assert_eq!(sort(r#""\\""#).unwrap(), br#""\\""#);
        assert_eq!(sort("true").unwrap(), b"true");
    }
}
