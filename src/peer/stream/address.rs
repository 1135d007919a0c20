//! The addresses of streams, for answers.

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
