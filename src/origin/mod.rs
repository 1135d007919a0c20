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

/// Where an event came from outside: for each stream of a peer, the numbers of the events.
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
/// streams, and [`MAX_RANGES`](Origin::MAX_RANGES) ranges of numbers: further ones are left out, and then
/// [`is_complete`](Origin::is_complete) is false. An origin never has an event that it was not given.
///
/// # Examples
///
/// ```
/// use eventbox::Origin;
///
/// let mut origin = Origin::new("chat", "room-1", 3)?;
/// origin.merge(&Origin::new("chat", "room-1", 7)?);
/// origin.merge(&Origin::new("chat", "room-2", 1)?);
/// origin.merge(&Origin::new("chat", "room-2", 2)?);
/// assert_eq!(origin.to_string(), "chat:room-1:3, chat:room-1:7, chat:room-2:1-2");
/// assert_eq!(origin.range("chat", "room-1"), Some((3, 7)));
/// assert!(origin.tracks("chat", "room-1", 7) && !origin.tracks("chat", "room-1", 5));
/// # Ok::<(), eventbox::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Origin {
    /// Ranges with gaps between them, sorted by peer, stream and number.
    entries: Vec<OriginEntry>,
    is_complete: bool,
}

/// Events of a stream in an [`Origin`], one behind the other.
///
/// # Examples
///
/// ```
/// let origin = eventbox::Origin::new("chat", "room-1", 3)?;
/// let entry = origin.entries().next().ok_or("it has one")?;
/// assert_eq!((entry.stream.as_str(), entry.first, entry.last), ("room-1", 3, 3));
/// # Ok::<(), eventbox::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct OriginEntry {
    /// Name of the peer.
    pub peer: String,
    /// Name of the stream, which is unique for the peer.
    pub stream: String,
    /// Number of the first of them on the stream.
    pub first: u64,
    /// Number of the last of them. Every event between the two is meant, too.
    pub last: u64,
}

impl OriginEntry {
    fn key(&self) -> (&str, &str) {
        (&self.peer, &self.stream)
    }

    /// Returns whether the range of the same stream overlaps with this one, or is next to it.
    fn touches(&self, other: &OriginEntry) -> bool {
        self.key() == other.key()
            && self.first <= other.last.saturating_add(1)
            && other.first <= self.last.saturating_add(1)
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

    /// Most ranges of one origin, for the same reason.
    pub const MAX_RANGES: usize = 256;

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

    /// Adds the events of another origin. Events with numbers behind each other make one range. Beyond
    /// [`MAX_ENTRIES`](Origin::MAX_ENTRIES) and [`MAX_RANGES`](Origin::MAX_RANGES) those that were there first stay.
    pub fn merge(&mut self, other: &Origin) {
        other.entries.iter().for_each(|entry| self.add(entry.clone()));
        self.is_complete &= other.is_complete;
    }

    /// Returns whether the event is one of the origin. An event between two others is not, unless it was merged, too.
    #[must_use]
    pub fn tracks(&self, peer: &str, stream: &str, event: u64) -> bool {
        self.of_stream(peer, stream).iter().any(|entry| (entry.first..=entry.last).contains(&event))
    }

    /// Returns the first and the last event of a stream; `None` when the origin does not have the stream.
    #[must_use]
    pub fn range(&self, peer: &str, stream: &str) -> Option<(u64, u64)> {
        let ranges = self.of_stream(peer, stream);
        Some((ranges.first()?.first, ranges.last()?.last))
    }

    /// Returns the ranges of a stream in the order of their numbers; empty when the origin does not have the stream.
    #[must_use]
    pub fn of_stream(&self, peer: &str, stream: &str) -> &[OriginEntry] {
        let start = self.entries.partition_point(|entry| entry.key() < (peer, stream));
        let end = self.entries.partition_point(|entry| entry.key() <= (peer, stream));
        self.entries.get(start..end).unwrap_or_default()
    }

    /// Returns the ranges, sorted by peer, stream and number.
    pub fn entries(&self) -> impl Iterator<Item = &OriginEntry> {
        self.entries.iter()
    }

    /// Returns the names of the streams of a peer, sorted.
    pub fn streams_of<'a>(&'a self, peer: &'a str) -> impl Iterator<Item = &'a str> {
        let of_peer = self.entries.chunk_by(|one, next| one.key() == next.key()).filter_map(|ranges| ranges.first());
        of_peer.filter(move |entry| entry.peer == peer).map(|entry| entry.stream.as_str())
    }

    /// Returns whether all events are there. False when some were left out, because there were more streams than
    /// [`MAX_ENTRIES`](Origin::MAX_ENTRIES), or more ranges than [`MAX_RANGES`](Origin::MAX_RANGES).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Adds a range. It becomes one with those that it touches.
    fn add(&mut self, mut added: OriginEntry) {
        let is_before = |entry: &OriginEntry| (entry.key(), entry.last) < (added.key(), added.first.saturating_sub(1));
        let start = self.entries.partition_point(is_before);
        let behind = self.entries.get(start..).unwrap_or_default();
        let touched = start..start + behind.iter().take_while(|entry| entry.touches(&added)).count();
        if touched.is_empty() && !self.has_room(&added) {
            self.is_complete = false;
            return;
        }
        for entry in self.entries.get(touched.clone()).unwrap_or_default() {
            added.first = added.first.min(entry.first);
            added.last = added.last.max(entry.last);
        }
        drop(self.entries.splice(touched, [added]));
    }

    /// Returns whether one more range fits.
    fn has_room(&self, added: &OriginEntry) -> bool {
        if self.entries.len() < Self::MAX_ENTRIES {
            return true;
        }
        let is_known = !self.of_stream(&added.peer, &added.stream).is_empty();
        let streams = || self.entries.chunk_by(|one, next| one.key() == next.key()).count();
        self.entries.len() < Self::MAX_RANGES && (is_known || streams() < Self::MAX_ENTRIES)
    }

    /// Returns the stored form, a part for each range: `[["chat","room-1",3,7]]`. Its last element is [`MORE`] when the
    /// origin is not complete.
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

/// Shows the ranges in their order: `chat:room-1:3-7, chat:room-2:1`. Ends with `, …` when some were left out.
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
        assert_eq!(both.to_string(), "chat:s1:3, chat:s1:5, chat:s2:9");
        assert_eq!(both.streams_of("chat").collect::<Vec<_>>(), ["s1", "s2"]);
    }

    #[test]
    fn a_merged_origin_that_is_merged_unions_its_ranges() {
        let left = merged(&[&origin("chat", "s1", 4), &origin("chat", "s2", 1)]);
        let right = merged(&[&origin("chat", "s1", 9), &origin("chat", "s1", 2), &origin("mail", "s1", 6)]);
        let both = merged(&[&left, &right]);
        assert_eq!(both.to_string(), "chat:s1:2, chat:s1:4, chat:s1:9, chat:s2:1, mail:s1:6");
        assert_eq!(merged(&[&right, &left]), both, "the order of merging plays no part");
        assert_eq!(merged(&[&both, &left]), both, "merging twice changes nothing");
        assert_eq!(both.range("chat", "s1"), Some((2, 9)));
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
        let some = [3, 4, 7].map(|event| origin("chat", "s1", event));
        let some = merged(&some.each_ref());
        let tracked: Vec<u64> = (0..10).filter(|event| some.tracks("chat", "s1", *event)).collect();
        assert_eq!(tracked, [3, 4, 7], "no event that was not merged");
        assert!((0..10).all(|event| !some.tracks("chat", "s2", event) && !some.tracks("mail", "s1", event)));
    }

    /// Beside a set of numbers: an origin has exactly what was merged into it, and no two of its ranges touch.
    #[test]
    fn an_origin_is_a_set() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let (mut origin_of, mut set) = (origin("chat", "s1", 0), std::collections::BTreeSet::from([(1, 0)]));
            for _ in 0..random.usize(0..60) {
                let (stream, event) = (random.u64(1..3), random.u64(0..40));
                origin_of.merge(&origin("chat", &format!("s{stream}"), event));
                set.insert((stream, event));
            }
            let tracked = |(stream, event): &(u64, u64)| origin_of.tracks("chat", &format!("s{stream}"), *event);
            let all = (1..3).flat_map(|stream| (0..45).map(move |event| (stream, event)));
            assert_eq!(all.filter(tracked).collect::<std::collections::BTreeSet<_>>(), set, "{origin_of}");
            let entries: Vec<_> = origin_of.entries().collect();
            assert!(entries.windows(2).all(|pair| pair[0] < pair[1] && !pair[0].touches(pair[1])), "{origin_of}");
            assert_eq!(SharedOrigin::read(origin_of.encode()).unwrap().origin(), &origin_of);
        }
    }

    #[test]
    fn beyond_the_limit_of_ranges_the_first_ones_stay() {
        let mut full = origin("chat", "s1", 0);
        (1..Origin::MAX_RANGES as u64).for_each(|event| full.merge(&origin("chat", "s1", 2 * event)));
        assert_eq!((full.entries().count(), full.is_complete()), (Origin::MAX_RANGES, true));
        full.merge(&origin("chat", "s1", 1));
        assert_eq!((full.entries().count(), full.is_complete()), (Origin::MAX_RANGES - 1, true), "it closed a gap");
        full.merge(&origin("chat", "s1", 10_000));
        full.merge(&origin("chat", "s1", 20_000));
        assert_eq!((full.entries().count(), full.is_complete()), (Origin::MAX_RANGES, false));
        assert!(full.tracks("chat", "s1", 10_000) && !full.tracks("chat", "s1", 20_000));
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
        assert_eq!((full.streams_of("chat").count(), full.is_complete()), (Origin::MAX_ENTRIES, false));
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
        let ranges = merged(&[&origin("chat", "s1", 1), &origin("chat", "s1", 2), &origin("chat", "s1", 7)]);
        assert_eq!(SharedOrigin::new(ranges).text(), r#"[["chat","s1",1,2],["chat","s1",7,7]]"#);
    }
}
