//! The contract between the core and the part of a source that knows where events come from.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::error::{BoxError, Result};
use crate::eventbox::{Event, check_event};
use crate::recipient::Recipient;

/// Largest number of bytes of a position.
pub const MAX_POSITION_BYTES: usize = crate::store::MAX_POSITION_BYTES;

/// Largest number of bytes of the name of a partition.
pub const MAX_PARTITION_BYTES: usize = 200;

/// Largest number of partitions of a source.
pub const MAX_PARTITIONS: usize = 10_000;

/// Where events come from. Implement it for a type of your own.
///
/// # What must hold
///
/// * A position says which events come behind it. A reader that is opened at a position returns exactly those, in the
///   same order each time, also after a crash. It may be opened at the same position any number of times.
/// * Positions are texts without NUL, of at most [`MAX_POSITION_BYTES`]. The core only compares them for equality. Two
///   different places have different positions.
/// * What is needed to read behind a position stays until [`committed`](EventSource::committed) has named a later one.
///
/// # Examples
///
/// See `docs/sources.md`, and [`drain`](crate::source::drain()).
#[async_trait]
pub trait EventSource: Send + Sync + 'static {
    /// Returns the names of the partitions: parts that are read independently of each other, each in its own order.
    ///
    /// The core asks again every second, so that partitions may come and go. The partitions of a source are spread
    /// over the processes of a service. A source has at most [`MAX_PARTITIONS`].
    ///
    /// The core drops the future after the `partitions_limit` of its [`SourceConfig`](crate::source::SourceConfig).
    ///
    /// # Errors
    ///
    /// Any error: the core keeps the partitions that it knows, and asks again after a pause that grows.
    async fn partitions(&self) -> Result<Vec<String>, BoxError>;

    /// Opens a partition behind a position; from its start when there is none.
    ///
    /// The core drops the future after the `open_limit` of its [`SourceConfig`](crate::source::SourceConfig).
    ///
    /// # Errors
    ///
    /// Any error. The partition is opened again after a pause, and the error is shown until that succeeds.
    async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError>;

    /// Hears that everything up to a position is in its eventboxes, so that the source may forget it. Does nothing
    /// unless overridden.
    ///
    /// A process that dies after its commit does not call it. A later call names a later position.
    ///
    /// The core drops the future after the `committed_limit` of its [`SourceConfig`](crate::source::SourceConfig).
    /// Then it opens the partition again after a pause, and the status says why.
    ///
    /// # Errors
    ///
    /// Any error: it is logged, and nothing else comes of it.
    async fn committed(&self, partition: &str, position: &str) -> Result<(), BoxError> {
        let _ = (partition, position);
        Ok(())
    }
}

/// An open partition.
///
/// # Cancel safety
///
/// The core may drop a reader at any time, also in the middle of a read. It opens a new one at the checkpoint.
#[async_trait]
pub trait SourceReader: Send {
    /// Reads the next events, as many as are there and fit.
    ///
    /// It may wait until there is an event, but not for a second one. An empty page says that there is nothing now: the
    /// core reads again after the `poll_interval` of its [`SourceConfig`](crate::source::SourceConfig). While it waits,
    /// the core compares the checkpoint every `checkpoint_interval`, and drops the reader when others have moved it.
    ///
    /// # Errors
    ///
    /// Any error. Return the events before an event that cannot be read first, and the error at the next call. The
    /// partition is opened again at its checkpoint after a pause, and the error is shown until that succeeds.
    async fn read(&mut self, room: Room) -> Result<Page, BoxError>;
}

/// How much the next page may have. A single event may be larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// Most events, at least 1.
    pub events: usize,
    /// Most bytes of values, at least 1.
    pub bytes: usize,
}

/// Events that a reader has read, and the position behind them.
///
/// # Examples
///
/// ```
/// use eventbox::source::Page;
/// use eventbox::{Event, Recipient};
///
/// let mut page = Page::new();
/// page.emit(Recipient::new("airport", "JFK")?, Event::new("departed"))?;
/// let page = page.up_to("line 1").behind(200);
/// assert_eq!((page.len(), page.position()), (1, Some("line 1")));
/// # Ok::<(), eventbox::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Page {
    pub(super) events: Vec<(Recipient, Event)>,
    pub(super) bytes: usize,
    pub(super) position: Option<String>,
    pub(super) ends: bool,
    pub(super) lag: Option<u64>,
}

impl Page {
    /// Makes an empty page: there is nothing now.
    #[must_use]
    pub fn new() -> Self {
        Page::default()
    }

    /// Adds an event for a recipient. Events are emitted in this order.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`](crate::Error::Misuse) when the event breaks a limit of [`Event`]: nothing was added.
    pub fn emit(&mut self, to: Recipient, event: Event) -> Result<()> {
        check_event(&to, &event)?;
        self.bytes = self.bytes.saturating_add(event.value().len());
        self.events.push((to, event));
        Ok(())
    }

    /// Sets the position behind everything that the reader has read. A page with events needs one. A position without
    /// events moves the checkpoint too: what was read is not read again.
    #[must_use]
    pub fn up_to(mut self, position: impl Into<String>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// Says how far the position is behind the end of the partition, in a unit of the source's own: bytes, lines.
    #[must_use]
    pub fn behind(mut self, lag: u64) -> Self {
        self.lag = Some(lag);
        self
    }

    /// Ends the reader at a boundary of rounds: the core commits the events up to here, and opens the partition anew at
    /// the new checkpoint. Use it to change what a partition reads.
    #[must_use]
    pub fn ending(mut self) -> Self {
        self.ends = true;
        self
    }

    /// Returns the number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns the position.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    /// Returns whether the page has no place for a further event.
    #[must_use]
    pub fn is_full(&self, room: Room) -> bool {
        self.events.len() >= room.events || self.bytes >= room.bytes
    }

    /// Returns what is wrong with the page, which comes behind a position.
    pub(super) fn problem(&self, behind: Option<&str>) -> Option<String> {
        match &self.position {
            None if !self.events.is_empty() => Some("the reader returned events without a position".to_owned()),
            // Opened there again, the source would bring the same events once more.
            Some(position) if !self.events.is_empty() && Some(position.as_str()) == behind => {
                Some(format!("the reader returned events, but stayed at {position:?}"))
            }
            Some(position) => problem_of_position(position).map(|problem| format!("the reader returned {problem}")),
            None => None,
        }
    }

    /// Adds what a later page has.
    pub(super) fn append(&mut self, mut later: Page) {
        self.events.append(&mut later.events);
        self.bytes = self.bytes.saturating_add(later.bytes);
        self.position = later.position.or(self.position.take());
        self.lag = later.lag.or(self.lag);
        self.ends |= later.ends;
    }

    /// Returns the place that is left, none when the page is full.
    pub(super) fn room_left(&self, room: Room) -> Option<Room> {
        let events = room.events.saturating_sub(self.events.len());
        let bytes = room.bytes.saturating_sub(self.bytes);
        (events > 0 && bytes > 0).then_some(Room { events, bytes })
    }
}

/// An answer of a source that did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the source did not answer {call} within {limit:?}, which its setting {setting} allows")]
pub(super) struct Late {
    call: &'static str,
    setting: &'static str,
    limit: Duration,
}

/// A call of a source, and the setting that bounds it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Partitions,
    Open,
    Committed,
}

impl Call {
    /// Waits for the answer of a source, within a limit. A panic and a late answer are errors.
    pub(super) async fn within<T>(
        self,
        limit: Duration,
        answer: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        let (call, setting) = match self {
            Call::Partitions => ("partitions()", "partitions_limit"),
            Call::Open => ("open()", "open_limit"),
            Call::Committed => ("committed()", "committed_limit"),
        };
        match timeout(limit, AssertUnwindSafe(answer).catch_unwind()).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(panicked())),
            Err(_) => Err(Late { call, setting, limit }.into()),
        }
    }
}

/// Returns the error of a source that panicked.
pub(super) fn panicked() -> BoxError {
    "the source panicked".into()
}

/// Returns what is wrong with a position.
fn problem_of_position(position: &str) -> Option<String> {
    match position {
        _ if position.len() > MAX_POSITION_BYTES => {
            Some(format!("a position of {} bytes, over the limit of {MAX_POSITION_BYTES}", position.len()))
        }
        _ if position.contains('\0') => Some("a position with a NUL character".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(events: usize) -> Page {
        let mut page = Page::new();
        for _ in 0..events {
            page.emit(Recipient::new("a", "1").unwrap(), Event::new("xx")).unwrap();
        }
        page
    }

    #[test]
    fn pages_are_put_together() {
        let mut first = page(2).up_to("2").behind(9);
        first.append(Page::new());
        assert_eq!((first.len(), first.position(), first.lag, first.ends), (2, Some("2"), Some(9), false));
        first.append(page(1).up_to("3").behind(8).ending());
        assert_eq!((first.len(), first.bytes, first.position(), first.lag), (3, 6, Some("3"), Some(8)));
        assert!(first.ends);
    }

    #[test]
    fn the_room_counts_events_and_bytes() {
        let room = |events, bytes| Room { events, bytes };
        assert_eq!(page(2).room_left(room(5, 10)), Some(room(3, 6)));
        assert_eq!(page(2).room_left(room(2, 10)), None);
        assert_eq!(page(2).room_left(room(5, 4)), None);
        assert!(page(2).is_full(room(2, 10)) && page(2).is_full(room(5, 4)) && !page(2).is_full(room(3, 5)));
    }

    #[test]
    fn wrong_pages_are_refused() {
        assert!(page(1).problem(None).is_some());
        assert!(page(1).up_to("1").problem(Some("1")).is_some() && page(0).up_to("1").problem(Some("1")).is_none());
        for position in ["a\0".to_owned(), "x".repeat(MAX_POSITION_BYTES + 1)] {
            assert!(Page::new().up_to(position).problem(None).is_some());
        }
        assert!(Page::new().problem(None).is_none() && page(1).up_to("").problem(None).is_none());
        let long = Event::new(vec![0; crate::eventbox::MAX_VALUE_BYTES + 1]);
        assert!(Page::new().emit(Recipient::new("a", "1").unwrap(), long).is_err());
    }
}
