//! Events that stay the bytes they were stored as, on their way to the wire.

use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::{CONTENT_TYPE, SPEC_VERSION};

/// The wire types of protobuf that events use.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// The field of the attributes, a map.
const ATTRIBUTES: u8 = 5;

/// An event as its encoded bytes, known to decode.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    bytes: Bytes,
    id: Range<usize>,
    source: Range<usize>,
    event_type: Range<usize>,
}

impl Encoded {
    /// The bytes as an event, when they are one that is sent as it is. `None` says nothing against them: then
    /// [`CloudEvent::decode`](super::CloudEvent::decode) has the word, which also mends events and knows what is wrong with them.
    pub(crate) fn recognize(bytes: Bytes) -> Option<Self> {
        let mut seen = Seen::default();
        let mut fields = Fields::of(&bytes);
        while let Some(field) = fields.next()? {
            seen.note(field)?;
        }
        let text = |range: &Range<usize>| bytes.get(range.clone()).and_then(|text| str::from_utf8(text).ok());
        let named = [&seen.id, &seen.source, &seen.event_type].iter().all(|range| !range.is_empty());
        // A payload in `proto_data` goes out with its content type; who stored it without gets it by being decoded.
        let typed = seen.content_type || !seen.proto_data;
        let is_sent = named && typed && text(&seen.version)? == SPEC_VERSION;
        let Seen { id, source, event_type, .. } = seen;
        is_sent.then_some(Encoded { bytes, id, source, event_type })
    }

    pub(crate) fn id(&self) -> &str {
        self.text(&self.id)
    }

    pub(crate) fn source(&self) -> &str {
        self.text(&self.source)
    }

    pub(crate) fn event_type(&self) -> &str {
        self.text(&self.event_type)
    }

    /// The bytes, which share their memory.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn text(&self, range: &Range<usize>) -> &str {
        self.bytes.get(range.clone()).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default()
    }
}

/// The number of an event, as two attributes behind its encoded bytes: of the entries of a map with one key, the last counts.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    pub(crate) epoch: Arc<str>,
}

impl Stamp {
    pub(crate) fn encoded_len(&self) -> usize {
        let digits = self.number.checked_ilog10().unwrap_or(0) as usize + 1;
        entry_len("seqnum", digits) + entry_len("seqepoch", self.epoch.len())
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        put_entry(out, "seqnum", &self.number.to_string());
        put_entry(out, "seqepoch", &self.epoch);
    }
}

fn field_len(bytes: usize) -> usize {
    1 + prost::length_delimiter_len(bytes) + bytes
}

fn entry_len(name: &str, text: usize) -> usize {
    field_len(field_len(name.len()) + field_len(field_len(text)))
}

fn put_field(out: &mut impl BufMut, number: u8, bytes: usize) {
    out.put_u8(number << 3 | LENGTH_DELIMITED);
    put_length(out, bytes);
}

/// The length of what comes, as protobuf writes it.
pub(crate) fn put_length(out: &mut impl BufMut, bytes: usize) {
    // It goes into vectors, which grow as they must, so this cannot fail.
    let _ = prost::encode_length_delimiter(bytes, out);
}

/// An entry of the attributes: a name and a `ce_string`.
fn put_entry(out: &mut impl BufMut, name: &str, text: &str) {
    let value = field_len(text.len());
    put_field(out, ATTRIBUTES, field_len(name.len()) + field_len(value));
    put_field(out, 1, name.len());
    out.put_slice(name.as_bytes());
    put_field(out, 2, value);
    put_field(out, 3, text.len());
    out.put_slice(text.as_bytes());
}

/// What an event was seen to have; of a field that is there twice, the last counts.
#[derive(Default)]
struct Seen {
    id: Range<usize>,
    source: Range<usize>,
    version: Range<usize>,
    event_type: Range<usize>,
    proto_data: bool,
    content_type: bool,
}

impl Seen {
    /// `None` for anything out of the ordinary.
    fn note(&mut self, field: Field<'_>) -> Option<()> {
        match (field.number, field.bytes()?) {
            (1, bytes) => self.id = field.text(bytes)?,
            (2, bytes) => self.source = field.text(bytes)?,
            (3, bytes) => self.version = field.text(bytes)?,
            (4, bytes) => self.event_type = field.text(bytes)?,
            (ATTRIBUTES, bytes) => self.note_attribute(bytes)?,
            // A second payload of another kind would replace the first; nobody writes that.
            (6, _) => {}
            (7, bytes) => field.text(bytes).map(|_| ())?,
            (8, bytes) => {
                self.proto_data = true;
                each(bytes, |field| match (field.number, field.bytes()?) {
                    (1, text) => field.text(text).map(drop),
                    (2, _) => Some(()),
                    _ => None,
                })?;
            }
            _ => return None,
        }
        Some(())
    }

    fn note_attribute(&mut self, entry: &[u8]) -> Option<()> {
        let (mut name, mut value) = (None, None);
        each(entry, |field| {
            match (field.number, field.bytes()?) {
                (1, text) if name.is_none() => name = Some(str::from_utf8(text).ok()?),
                (2, message) if value.is_none() => value = Some(message),
                _ => return None,
            }
            Some(())
        })?;
        let (name, value) = (name?, value?);
        let mut is_content_type = false;
        let mut attributes = 0;
        each(value, |field| {
            attributes += 1;
            match (field.number, field.content) {
                (1 | 2, Content::Varint) | (4, Content::Bytes(_)) => Some(()),
                (3 | 5 | 6, Content::Bytes(text)) => {
                    is_content_type = field.number == 3 && text == CONTENT_TYPE.as_bytes();
                    str::from_utf8(text).ok().map(drop)
                }
                (7, Content::Bytes(time)) => {
                    each(time, |field| matches!((field.number, field.content), (1 | 2, Content::Varint)).then_some(()))
                }
                _ => None,
            }
        })?;
        if name == "datacontenttype" {
            self.content_type = is_content_type;
        }
        (attributes == 1).then_some(())
    }
}

fn each<'a>(bytes: &'a [u8], mut note: impl FnMut(Field<'a>) -> Option<()>) -> Option<()> {
    let mut fields = Fields::of(bytes);
    while let Some(field) = fields.next()? {
        note(field)?;
    }
    Some(())
}

/// A field of a message.
#[derive(Clone, Copy)]
struct Field<'a> {
    number: u8,
    content: Content<'a>,
    /// Where its bytes begin in the message.
    start: usize,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Varint,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> Option<&'a [u8]> {
        match self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Varint => None,
        }
    }

    /// Where its text is in the message, if it is one.
    fn text(&self, bytes: &[u8]) -> Option<Range<usize>> {
        str::from_utf8(bytes).ok().map(|text| self.start..self.start + text.len())
    }
}

/// The fields of a message, as far as they have low numbers and the two common wire types.
struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        Fields { message, at: 0 }
    }

    /// The next field; `Some(None)` at the end, `None` for anything out of the ordinary.
    fn next(&mut self) -> Option<Option<Field<'a>>> {
        let Some(&key) = self.message.get(self.at) else { return Some(None) };
        self.at += 1;
        // Numbers above 15 take a second byte, and 0 is none.
        let (number, wire_type) = (key >> 3, key & 7);
        if !(1..=15).contains(&number) {
            return None;
        }
        let value = self.varint()?;
        let start = self.at;
        let content = match wire_type {
            VARINT => Content::Varint,
            LENGTH_DELIMITED => {
                self.at = start.checked_add(usize::try_from(value).ok()?)?;
                Content::Bytes(self.message.get(start..self.at)?)
            }
            _ => return None,
        };
        Some(Some(Field { number, content, start }))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::CloudEvent;

    fn events() -> Vec<CloudEvent> {
        let plain = CloudEvent::builder("flights", "flight.departed").build().unwrap();
        let full = CloudEvent::builder("flights", "flight.departed")
            .payload("UA 1545")
            .subject("N14228")
            .data_schema("/schemas/departed")
            .time(SystemTime::now())
            .idempotency_key("key")
            .extension("yes", true)
            .extension("many", -7)
            .resource_attributes([("service.name", "tower")])
            .build()
            .unwrap();
        let mut stamped = full.clone();
        stamped.stamp("seqnum", "an old one".to_owned());
        vec![plain, full, stamped]
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { number, epoch: "epoch".into() }
    }

    /// An event that is stamped behind its bytes is the event that was stamped and encoded.
    #[test]
    fn stored_bytes_are_sent_as_they_are_and_numbered() {
        for mut event in events() {
            let encoded = Encoded::recognize(event.encode().into()).unwrap();
            assert_eq!(
                (encoded.id(), encoded.source(), encoded.event_type()),
                (event.id(), event.source(), event.event_type())
            );
            for number in [0, 1, 9, 10, u64::MAX] {
                let mut bytes = encoded.bytes().to_vec();
                let stamp = stamp(number);
                stamp.encode(&mut bytes);
                assert_eq!(bytes.len(), encoded.bytes().len() + stamp.encoded_len());
                event.stamp("seqnum", number.to_string());
                event.stamp("seqepoch", "epoch".to_owned());
                assert_eq!(CloudEvent::decode(&bytes).unwrap(), event);
            }
        }
    }

    /// What is recognized would decode, unchanged: else one row could spoil the batches that it is in.
    #[test]
    fn no_damaged_bytes_are_taken_for_an_event() {
        let mut recognized = 0;
        for event in events() {
            let whole = event.encode();
            let damaged = (0..whole.len()).flat_map(|at| {
                let changed = (0..=255).map({
                    let whole = whole.clone();
                    move |byte| {
                        let mut changed = whole.clone();
                        changed[at] = byte;
                        changed
                    }
                });
                changed.chain([whole[..at].to_vec(), [&whole[..at], &whole[at + 1..]].concat()]).collect::<Vec<_>>()
            });
            for bytes in damaged {
                let Some(encoded) = Encoded::recognize(bytes.clone().into()) else { continue };
                recognized += 1;
                let wire = <crate::proto::io::cloudevents::v1::CloudEvent as prost::Message>::decode(&*bytes).unwrap();
                let decoded = CloudEvent::from_wire(wire.clone()).unwrap();
                assert_eq!(decoded.id(), encoded.id());
                assert_eq!((decoded.source(), decoded.event_type()), (encoded.source(), encoded.event_type()));
                assert_eq!(decoded.into_wire(), wire);
            }
        }
        assert!(recognized > 1_000, "{recognized}");
    }

    #[test]
    fn what_has_to_be_mended_is_not_recognized() {
        let mut wire = events().remove(1).into_wire();
        wire.attributes.remove("datacontenttype");
        assert!(Encoded::recognize(CloudEvent::trusted(wire).encode().into()).is_none());
        let mut wire = events().remove(1).into_wire();
        wire.spec_version = "0.3".to_owned();
        assert!(Encoded::recognize(CloudEvent::trusted(wire).encode().into()).is_none());
    }
}
