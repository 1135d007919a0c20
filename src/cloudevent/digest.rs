//! Keys that are functions of the content of an event.

use std::fmt::Write;

use prost::Message;
use sha2::{Digest, Sha256};

use super::CloudEvent;
use super::wire::cloud_event::Data;

/// Attributes that are not content.
///
/// The sender sets them, or two events about the same fact have different values of them.
const NOT_CONTENT: [&str; 5] = ["recordedtime", "idempotencykey", "seqnum", "seqepoch", "emitter"];

impl CloudEvent {
    /// Returns a digest of the content of the event.
    ///
    /// The content is everything except the id, the time of recording, the idempotency key and the attributes that the
    /// emitter adds.
    #[must_use]
    pub fn content_digest(&self) -> [u8; 32] {
        let mut hash = Fields::default();
        hash.field(self.0.source.as_bytes());
        hash.field(self.0.r#type.as_bytes());
        hash.field(self.0.spec_version.as_bytes());
        for (name, value) in &self.0.attributes {
            if !NOT_CONTENT.contains(&name.as_str()) {
                hash.field(name.as_bytes());
                hash.field(&value.encode_to_vec());
            }
        }
        // An empty name ends the attributes, so that an attribute cannot look like a payload.
        hash.field(&[]);
        match &self.0.data {
            None => hash.field(b"none"),
            Some(Data::BinaryData(bytes)) => hash.field(b"binary").field(bytes),
            Some(Data::TextData(text)) => hash.field(b"text").field(text.as_bytes()),
            Some(Data::ProtoData(any)) => hash.field(b"proto").field(any.type_url.as_bytes()).field(&any.value),
        };
        hash.finish()
    }

    /// Returns the SHA-256 of source, type and payload, in lower-case hex.
    ///
    /// As an idempotency key it makes a receiver drop the second of two events with the same source, type and payload.
    /// Use it only when such events are always copies of the same fact.
    #[must_use]
    pub fn content_hash(&self) -> String {
        let mut hash = Fields::default();
        hash.field(self.0.source.as_bytes()).field(self.0.r#type.as_bytes()).field(self.payload());
        hex(&hash.finish())
    }
}

/// Returns the idempotency key of the `ordinal`-th message of a turn.
///
/// The function is pure, so that a retry of the turn or of the delivery has the same key. Other content has another
/// key.
pub(crate) fn turn_key(recipient: &str, turn: i64, ordinal: u32, event: &CloudEvent) -> String {
    let mut hash = Fields::default();
    hash.field(recipient.as_bytes())
        .field(&turn.to_be_bytes())
        .field(&ordinal.to_be_bytes())
        .field(&event.content_digest());
    hex(&hash.finish())
}

/// SHA-256 over fields. The length of each field comes before it, in four bytes, big-endian.
#[derive(Default)]
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.update(length.to_be_bytes());
        self.0.update(bytes);
        self
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Returns bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &'static str) -> CloudEvent {
        CloudEvent::builder("flights", "flight.departed").payload(payload).subject("N14228").build().unwrap()
    }

    #[test]
    fn a_turns_key_is_a_function_of_its_place_and_content() {
        let key = turn_key("aircraft/N14228", 7, 0, &event("UA 1545"));
        assert_eq!(key, turn_key("aircraft/N14228", 7, 0, &event("UA 1545")));
        assert_eq!(key.len(), 64);
        for other in [
            turn_key("aircraft/N14229", 7, 0, &event("UA 1545")),
            turn_key("aircraft/N14228", 8, 0, &event("UA 1545")),
            turn_key("aircraft/N14228", 7, 1, &event("UA 1545")),
            turn_key("aircraft/N14228", 7, 0, &event("UA 1546")),
        ] {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn attributes_added_by_the_emitter_are_no_content() {
        let plain = event("x");
        let mut stamped = plain.clone();
        stamped.stamp("seqnum", "7".to_owned());
        stamped.stamp("emitter", "DurableEmitter".to_owned());
        stamped.default_key(|event| event.content_hash());
        assert_eq!(plain.content_digest(), stamped.content_digest());
    }

    /// The reference puts a 4-byte big-endian length before each of source, type and body.
    #[test]
    fn the_content_hash_is_the_references() {
        let event = CloudEvent::builder("a", "bc").payload("def").build().unwrap();
        let expected = hex(&Sha256::digest(b"\0\0\0\x01a\0\0\0\x02bc\0\0\0\x03def"));
        assert_eq!(event.content_hash(), expected);
    }
}
