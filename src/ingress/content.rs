//! What makes two events with the same key the same event.

use prost::Message;

use crate::proto::io::cloudevents::v1::CloudEvent;

/// Attributes that a sender stamps anew when it makes or sends an event again.
const STAMPS: [&str; 4] = ["emitter", "recordedtime", "seqepoch", "seqnum"];

/// True when two encoded events differ at most in their id and in the stamps of their sender.
pub(super) fn same_content(first: &[u8], second: &[u8]) -> bool {
    first == second || content_of(first) == content_of(second)
}

/// An encoded event without its id and the stamps of its sender; the bytes as they are when they are no event.
pub(super) fn content_of(encoded: &[u8]) -> Vec<u8> {
    let Ok(mut event) = CloudEvent::decode(encoded) else { return encoded.to_vec() };
    event.id.clear();
    event.attributes.retain(|name, _| !STAMPS.contains(&name.as_str()));
    event.encode_to_vec()
}
