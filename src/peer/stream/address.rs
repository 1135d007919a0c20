//! The streams of events: where answers go, and which events came together.

use std::collections::HashMap;

use crate::eventbox::{Event, STREAM_KIND};
use crate::recipient::Recipient;

/// Returns the eventboxes of the streams from which an event came, directly or through other events: emit an answer to
/// them.
///
/// An event that a turn emits carries the origins of the events that the turn consumes, so an answer finds its stream
/// also through several recipients. The list is empty for an event that did not come from a peer.
///
/// # Examples
///
/// ```
/// use eventbox::peer::answer_to;
/// use eventbox::{Event, Origin};
///
/// let request = Event::new("a request").with_origin(Origin::new("web", "lane-3", 17)?);
/// let streams: Vec<String> = answer_to(&request).iter().map(ToString::to_string).collect();
/// assert_eq!(streams, ["peer.web/lane-3"]);
/// # Ok::<(), eventbox::Error>(())
/// ```
#[must_use]
pub fn answer_to(event: &Event) -> Vec<Recipient> {
    let entries = event.origin().into_iter().flat_map(|origin| origin.entries());
    entries.filter_map(|entry| Recipient::new(format!("{STREAM_KIND}{}", entry.peer), &entry.stream).ok()).collect()
}

/// Groups events by the streams from which they came, for a turn that makes one answer, one message or one write of
/// many events: what it makes of a group concerns the streams of this group only.
///
/// Use it where a turn would else mix the events of several streams. Returns the groups in the order of their first
/// events, and within a group the events in their order. Events with several streams in their origin are a group of
/// their own for each set of streams; events that did not come from a peer are one group.
///
/// What goes out needs no grouping: a batch of [`Outgoing`](super::outgoing::Outgoing) has events of one stream.
///
/// # Examples
///
/// ```
/// use eventbox::peer::by_stream;
/// use eventbox::{Event, Origin};
///
/// let from = |stream, number| Origin::new("web", stream, number).map(|origin| Event::new("").with_origin(origin));
/// let events = [from("one", 1)?, from("two", 1)?, from("one", 2)?];
/// let groups: Vec<usize> = by_stream(&events).iter().map(Vec::len).collect();
/// assert_eq!(groups, [2, 1]);
/// # Ok::<(), eventbox::Error>(())
/// ```
#[must_use]
pub fn by_stream(events: &[Event]) -> Vec<Vec<&Event>> {
    let (mut groups, mut places) = (Vec::<Vec<&Event>>::new(), HashMap::new());
    for event in events {
        let streams = event.origin().into_iter().flat_map(|origin| origin.entries());
        let key: Vec<_> = streams.map(|entry| (&entry.peer, &entry.stream)).collect();
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(event),
            None => groups.push(vec![event]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origin;

    #[test]
    fn groups_keep_the_order_and_never_mix_streams() {
        let of = |origins: &[(&str, u64)]| {
            let mut origin: Option<Origin> = None;
            for (stream, number) in origins {
                let next = Origin::new("web", stream, *number).unwrap();
                origin.get_or_insert_with(|| next.clone()).merge(&next);
            }
            let event = Event::new(format!("{origins:?}"));
            origin.map_or(event.clone(), |origin| event.with_origin(origin))
        };
        let events = [of(&[("b", 1)]), of(&[]), of(&[("a", 1)]), of(&[("b", 2)]), of(&[("a", 2), ("b", 3)]), of(&[])];
        let values = |group: &Vec<&Event>| group.iter().map(|event| event.value().to_vec()).collect::<Vec<_>>();
        let expected = [vec![0, 3], vec![1, 5], vec![2], vec![4]];
        let expected = expected.map(|places| places.iter().map(|at| events[*at].value().to_vec()).collect::<Vec<_>>());
        assert_eq!(by_stream(&events).iter().map(values).collect::<Vec<_>>(), expected);
        assert!(by_stream(&[]).is_empty());
    }
}
