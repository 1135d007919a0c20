//! The comparison of the contents of two events with the same key.

use prost::Message;

use crate::proto::io::cloudevents::v1::CloudEvent;

/// Attributes that the sender sets again whenever it makes or sends the event.
const STAMPS: [&str; 4] = ["emitter", "recordedtime", "seqepoch", "seqnum"];

/// Returns true when two encoded events differ at most in their id and in the `STAMPS`.
pub(super) fn same_content(first: &[u8], second: &[u8]) -> bool {
    first == second || content_of(first) == content_of(second)
}

/// Returns an encoded event without its id and the `STAMPS`. Returns bytes that are not an event unchanged.
pub(super) fn content_of(encoded: &[u8]) -> Vec<u8> {
    let Ok(mut event) = CloudEvent::decode(encoded) else { return encoded.to_vec() };
    event.id.clear();
    event.attributes.retain(|name, _| !STAMPS.contains(&name.as_str()));
    event.encode_to_vec()
}
