//! Where events came from outside: numbers of events on streams of peers. Everything that an event causes keeps it.

mod shared;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Misuse, Result};
use crate::text::shortened;

pub(crate) use shared::{SharedOrigin, current, read, within};

/// Mark at the end of the stored text of an origin that is not complete.
const MORE: &str = "more";

/// Where an event came from outside: for each stream of a peer, the numbers of the first and the last event.
///
/// A peer is a connection to the outside. It numbers the events that arrive on each of its streams, and emits them with
/// their origins ([`Event::with_origin`](crate::Event::with_origin)). Whatever such an event causes keeps the origin:
/// what a turn emits and publishes has the merged origin of the events that the turn consumes. So an answer finds the
/// stream on which its request arrived, and an acknowledgement finds the last event that it covers.
///
/// # Units and limits
///
/// A name of a peer has 1 to [`MAX_PEER_BYTES`](Origin::MAX_PEER_BYTES) bytes, and a name of a stream 1 to
/// [`MAX_STREAM_BYTES`](Origin::MAX_STREAM_BYTES), both without NUL. At most [`MAX_ENTRIES`](Origin::MAX_ENTRIES)
/// streams: further ones are left out, and then [`is_complete`](Origin::is_complete) is false.
///
/// # Examples
///
/// ```
/// use eventbox::Origin;
///
/// let mut origin = Origin::new("chat", "room-1", 3)?;
/// origin.merge(&Origin::new("chat", "room-1", 7)?);
/// origin.merge(&Origin::new("chat", "room-2", 1)?);
/// assert_eq!(origin.to_string(), "chat:room-1:3-7, chat:room-2:1");
/// assert_eq!(origin.range("chat", "room-1"), Some((3, 7)));
/// assert!(origin.tracks("chat", "room-1", 5) && !origin.tracks("chat", "room-2", 5));
/// # Ok::<(), eventbox::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Origin {
    /// The streams, sorted by peer and stream.
    entries: Vec<OriginEntry>,
    is_complete: bool,
}

/// A stream in an [`Origin`].
///
/// # Examples
///
/// ```
/// let origin = eventbox::Origin::new("chat", "room-1", 3)?;
/// let entry = origin.entries().next().ok_or("it has one")?;
/// assert_eq!((entry.stream.as_str(), entry.first, entry.last), ("room-1", 3, 3));
/// # Ok::<(), eventbox::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct OriginEntry {
    /// Name of the peer.
    pub peer: String,
    /// Name of the stream, which is unique for the peer.
    pub stream: String,
    /// Number of the first event on the stream.
    pub first: u64,
    /// Number of the last event on the stream. Not every event between them needs to be meant.
    pub last: u64,
}

impl OriginEntry {
    fn key(&self) -> (&str, &str) {
        (&self.peer, &self.stream)
    }
}

/// Shows `peer:stream:first`, or `peer:stream:first-last`.
impl fmt::Display for OriginEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.peer, self.stream, self.first)?;
        if self.last == self.first { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

impl Origin {
    /// Most streams of one origin, so that an event that many others caused has a bounded row.
    pub const MAX_ENTRIES: usize = 64;

    /// Most bytes of the name of a peer.
    pub const MAX_PEER_BYTES: usize = 128;

    /// Most bytes of the name of a stream.
    pub const MAX_STREAM_BYTES: usize = 256;

    /// Makes the origin of one event: its number on a stream of a peer.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] when a name is empty, too long, or has a NUL character.
    pub fn new(peer: &str, stream: &str, event: u64) -> Result<Self> {
        let parts = [("peer", peer, Self::MAX_PEER_BYTES), ("stream of a peer", stream, Self::MAX_STREAM_BYTES)];
        for (what, text, limit) in parts {
            check(what, text, limit).map_err(|misuse| {
                Error::misuse(format!("name the origin {}:{}", shortened(peer), shortened(stream)), misuse)
            })?;
        }
        let entry = OriginEntry { peer: peer.to_owned(), stream: stream.to_owned(), first: event, last: event };
        Ok(Origin { entries: vec![entry], is_complete: true })
    }

    /// Adds the streams of another origin. A stream of both gets one range, from the first event to the last. Beyond
    /// [`MAX_ENTRIES`](Origin::MAX_ENTRIES) the streams that were there first stay.
    pub fn merge(&mut self, other: &Origin) {
        other.entries.iter().for_each(|entry| self.add(entry.clone()));
        self.is_complete &= other.is_complete;
    }

    /// Returns whether the event is in the range of its stream. An event between the first and the last counts, also
    /// when it is no part of the origin.
    #[must_use]
    pub fn tracks(&self, peer: &str, stream: &str, event: u64) -> bool {
        self.range(peer, stream).is_some_and(|(first, last)| (first..=last).contains(&event))
    }

    /// Returns the first and the last event of a stream; `None` when the origin does not have the stream.
    #[must_use]
    pub fn range(&self, peer: &str, stream: &str) -> Option<(u64, u64)> {
        let entry = self.entries.get(self.place_of((peer, stream)).ok()?)?;
        Some((entry.first, entry.last))
    }

    /// Returns the streams, sorted by peer and stream.
    pub fn entries(&self) -> impl Iterator<Item = &OriginEntry> {
        self.entries.iter()
    }

    /// Returns the names of the streams of a peer, sorted.
    pub fn streams_of<'a>(&'a self, peer: &'a str) -> impl Iterator<Item = &'a str> {
        self.entries.iter().filter(move |entry| entry.peer == peer).map(|entry| entry.stream.as_str())
    }

    /// Returns whether all streams are there. False when streams were left out, because there were more than
    /// [`MAX_ENTRIES`](Origin::MAX_ENTRIES).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn place_of(&self, key: (&str, &str)) -> std::result::Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key().cmp(&key))
    }

    fn add(&mut self, entry: OriginEntry) {
        match self.place_of(entry.key()) {
            Ok(at) => {
                if let Some(known) = self.entries.get_mut(at) {
                    known.first = known.first.min(entry.first);
                    known.last = known.last.max(entry.last);
                }
            }
            Err(_) if self.entries.len() >= Self::MAX_ENTRIES => self.is_complete = false,
            Err(at) => self.entries.insert(at, entry),
        }
    }

    /// Returns the stored form: `[["chat","room-1",3,7]]`, with [`MORE`] as the last element when it is not complete.
    fn encode(&self) -> String {
        let entry = |entry: &OriginEntry| {
            let names = [Value::from(entry.peer.as_str()), entry.stream.as_str().into()];
            Value::from_iter(names.into_iter().chain([entry.first.into(), entry.last.into()]))
        };
        let mark = (!self.is_complete).then(|| Value::from(MORE));
        Value::from_iter(self.entries.iter().map(entry).chain(mark)).to_string()
    }

    /// Reads the stored form. A text without a stream is no origin.
    fn decode(text: &str) -> std::result::Result<Option<Self>, serde_json::Error> {
        let mut origin = Origin { entries: Vec::new(), is_complete: true };
        for part in serde_json::from_str::<Vec<Part>>(text)? {
            match part {
                Part::Entry(peer, stream, first, last) => {
                    origin.add(OriginEntry { peer, stream, first: first.min(last), last: first.max(last) });
                }
                Part::Mark(mark) => origin.is_complete &= mark != MORE,
            }
        }
        Ok(if origin.entries.is_empty() { None } else { Some(origin) })
    }
}

/// Shows the entries in their order: `chat:room-1:3-7, chat:room-2:1`. Ends with `, …` when streams were left out.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, entry) in self.entries.iter().enumerate() {
            let between = if place == 0 { "" } else { ", " };
            write!(f, "{between}{entry}")?;
        }
        f.write_str(if self.is_complete { "" } else { ", …" })
    }
}

/// An element of the stored form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Entry(String, String, u64, u64),
    Mark(String),
}

fn check(what: &'static str, text: &str, limit: usize) -> std::result::Result<(), Misuse> {
    if text.is_empty() {
        return Err(Misuse::Empty { what });
    }
    if text.len() > limit {
        return Err(Misuse::TooLong { what, bytes: text.len(), limit });
    }
    if text.contains('\0') {
        return Err(Misuse::Nul { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, stream: &str, event: u64) -> Origin {
        Origin::new(peer, stream, event).unwrap()
    }

    fn merged(origins: &[&Origin]) -> Origin {
        let mut merged = origins[0].clone();
        origins[1..].iter().for_each(|origin| merged.merge(origin));
        merged
    }

    #[test]
    fn the_range_of_a_single_event_is_its_own_number() {
        for event in [0, 7, u64::MAX] {
            let single = origin("chat", "s1", event);
            assert_eq!(single.range("chat", "s1"), Some((event, event)));
            assert_eq!(single.to_string(), format!("chat:s1:{event}"));
        }
    }

    #[test]
    fn merged_streams_keep_separate_ranges() {
        let both = merged(&[&origin("chat", "s2", 9), &origin("chat", "s1", 3), &origin("chat", "s1", 5)]);
        assert_eq!((both.range("chat", "s1"), both.range("chat", "s2")), (Some((3, 5)), Some((9, 9))));
        assert_eq!(both.to_string(), "chat:s1:3-5, chat:s2:9");
        assert_eq!(both.streams_of("chat").collect::<Vec<_>>(), ["s1", "s2"]);
    }

    #[test]
    fn a_merged_origin_that_is_merged_unions_its_ranges() {
        let left = merged(&[&origin("chat", "s1", 4), &origin("chat", "s2", 1)]);
        let right = merged(&[&origin("chat", "s1", 9), &origin("chat", "s1", 2), &origin("mail", "s1", 6)]);
        let both = merged(&[&left, &right]);
        assert_eq!(both.to_string(), "chat:s1:2-9, chat:s2:1, mail:s1:6");
        assert_eq!(merged(&[&right, &left]), both, "the order of merging plays no part");
        assert_eq!(merged(&[&both, &left]), both, "merging twice changes nothing");
        assert_eq!(both.entries().map(|entry| entry.first).collect::<Vec<_>>(), [2, 1, 6]);
    }

    #[test]
    fn an_unknown_source_has_nothing() {
        let known = origin("chat", "s1", 3);
        assert_eq!((known.range("mail", "s1"), known.range("chat", "s2")), (None, None));
        assert_eq!(known.streams_of("mail").count(), 0);
        assert!(!known.tracks("mail", "s1", 3));
    }

    #[test]
    fn tracking_is_true_at_both_ends_and_false_for_another_stream() {
        let range = merged(&[&origin("chat", "s1", 3), &origin("chat", "s1", 7)]);
        let tracked: Vec<u64> = (0..10).filter(|event| range.tracks("chat", "s1", *event)).collect();
        assert_eq!(tracked, [3, 4, 5, 6, 7], "gaps count");
        assert!((0..10).all(|event| !range.tracks("chat", "s2", event) && !range.tracks("mail", "s1", event)));
    }

    #[test]
    fn beyond_the_limit_the_first_streams_stay() {
        let mut full = origin("chat", "s10", 1);
        for stream in 11..Origin::MAX_ENTRIES + 10 {
            full.merge(&origin("chat", &format!("s{stream}"), 1));
        }
        assert_eq!((full.entries().count(), full.is_complete()), (Origin::MAX_ENTRIES, true));
        let complete = full.clone();
        full.merge(&origin("chat", "s0", 1));
        full.merge(&origin("chat", "s10", 5));
        assert_eq!((full.entries().count(), full.is_complete()), (Origin::MAX_ENTRIES, false));
        assert_eq!((full.range("chat", "s0"), full.range("chat", "s10")), (None, Some((1, 5))));
        assert!(full.to_string().ends_with(", …"));
        assert!(!merged(&[&complete, &full]).is_complete());
        assert_eq!(SharedOrigin::read(full.encode()).unwrap().origin(), &full);
    }

    #[test]
    fn a_bad_name_is_refused() {
        let long = "x".repeat(Origin::MAX_STREAM_BYTES + 1);
        for (peer, stream) in [("", "s"), ("p", ""), (&long[..129], "s"), ("p", &long), ("a\0", "s"), ("p", "\0")] {
            let error = Origin::new(peer, stream, 1).unwrap_err();
            assert!(matches!(error, Error::Misuse { .. }) && error.to_string().len() < 500, "{error}");
        }
        assert!(Origin::new(&long[..128], &long[..256], 1).is_ok());
    }

    #[test]
    fn the_stored_form_comes_back() {
        let quoted = merged(&[&origin("a \"b\"", "s,[]", 1), &origin("ä", "\u{1}", u64::MAX)]);
        for origin in [origin("chat", "s1", 7), quoted] {
            assert_eq!(SharedOrigin::read(origin.encode()).unwrap().origin(), &origin);
        }
        let range = merged(&[&origin("chat", "s1", 1), &origin("chat", "s1", 7)]);
        assert_eq!(SharedOrigin::new(range).text(), r#"[["chat","s1",1,7]]"#);
    }
}
