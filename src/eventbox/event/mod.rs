//! Events: the content of an eventbox.

mod origin;
pub(super) mod receipt;
pub(super) mod status;
pub(super) mod timer;
pub(super) mod trace;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use self::timer::Due;
use crate::clock;
use crate::error::BoxError;
use crate::json;
use crate::origin::SharedOrigin;
use crate::store::{ListedRow, TimerRow};

/// Time after its emit within which an event is still expected to commit. A turn deletes older events as an id range.
/// An event that commits later makes the turn fall back to deleting by ids.
pub(super) const LATE_COMMIT: Duration = Duration::from_secs(1);

/// Time after its emit within which an event may commit and still be listed before later events of its sender: emits
/// that wait for a connection or a name, and transactions of the sender. A runtime that consumes an eventbox faster
/// lists the last minute again, and finds nothing.
#[cfg(feature = "runtime")]
const LATEST_COMMIT: Duration = Duration::from_secs(60);

/// Id of an event: unique, minted at its emit. The ids of one process are in the order of its emits.
///
/// The id is a UUIDv7, so it carries the time of the emit in milliseconds.
///
/// # Examples
///
/// ```
/// use eventbox::{Event, EventId};
///
/// // An id can be stored as its UUID, and read back.
/// let id = Event::new("departed").id();
/// assert_eq!(EventId::from(*id.as_uuid()), id);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub(crate) Uuid);

impl EventId {
    /// The id before every other; events that are not emitted yet have it.
    pub(crate) const NIL: EventId = EventId(Uuid::nil());

    /// Mints an id, greater than every id that this process minted before, also when its clock goes backwards.
    pub(crate) fn mint() -> Self {
        EventId(clock::new_id())
    }

    /// Returns when the event was emitted, by the clock of the process that emitted it.
    #[must_use]
    pub fn emitted_at(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.0.get_timestamp().map_or((0, 0), |stamp| stamp.to_unix());
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// Returns this id or a lower bound for the ids of the last [`LATEST_COMMIT`], whichever is smaller.
    #[cfg(feature = "runtime")]
    pub(crate) fn before_late_ones(self) -> Self {
        let now = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The first 48 bits are milliseconds.
        let settled = now.saturating_sub(LATEST_COMMIT).as_millis() << 80;
        EventId(Uuid::from_u128(self.0.as_u128().min(settled)))
    }

    /// Returns the id as its UUID.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes an id from a UUID that was stored or shown before, on an administrator's page, say.
impl From<Uuid> for EventId {
    fn from(id: Uuid) -> Self {
        EventId(id)
    }
}

impl From<&EventId> for EventId {
    fn from(id: &EventId) -> Self {
        *id
    }
}

impl From<&Event> for EventId {
    fn from(event: &Event) -> Self {
        event.id
    }
}

/// One message of an eventbox: a value, and a name when the sender may have to send it again.
///
/// An event is cheap to clone. Its id is minted when the event is emitted, and is the nil UUID before.
///
/// # Examples
///
/// ```
/// use eventbox::Event;
///
/// let event = Event::new("departed").named("2013-01-01/UA/1545");
/// assert_eq!(event.value(), b"departed");
/// assert_eq!(event.name(), Some("2013-01-01/UA/1545"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    id: EventId,
    name: Option<Box<str>>,
    traceparent: Option<Box<str>>,
    origin: Option<SharedOrigin>,
    due: Option<Due>,
    value: Bytes,
}

impl Event {
    /// Makes an event without a name: every emit of it adds another event.
    ///
    /// At most [`MAX_VALUE_BYTES`](crate::limits::MAX_VALUE_BYTES), checked at the emit. Keep the value far smaller.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Event { id: EventId::NIL, name: None, traceparent: None, origin: None, due: None, value: value.into() }
    }

    /// Makes an event whose value is `value` as JSON; [`json`](Event::json) reads it back.
    ///
    /// # Errors
    ///
    /// When JSON cannot express the value, with the name of the field: a number that is NaN or infinite, `Some(None)`,
    /// a map whose keys are no strings, or values nested deeper than [`MAX_JSON_DEPTH`](crate::limits::MAX_JSON_DEPTH).
    /// A reader of the JSON would not get the value back.
    pub fn from_json<T: serde::Serialize>(value: &T) -> Result<Self, BoxError> {
        Ok(Event::new(json::to_vec(value)?))
    }

    /// Makes an event whose value is `message` in protobuf; [`protobuf`](Event::protobuf) reads it back.
    ///
    /// A message that nests more than 100 levels deep can be written, but readers of protobuf refuse it.
    #[must_use]
    pub fn from_protobuf(message: &impl prost::Message) -> Self {
        Event::new(message.encode_to_vec())
    }

    /// Names the event (its idempotency key). While the event exists, and for the tombstone delay after, a second emit
    /// of the name to the same recipient changes nothing. It returns [`Duplicate`](crate::Emitted::Duplicate) or
    /// [`Tombstoned`](crate::Emitted::Tombstoned).
    ///
    /// 1 to [`MAX_KEY_BYTES`](crate::limits::MAX_KEY_BYTES) bytes without NUL, checked at the emit. Two recipients may
    /// use the same name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into().into());
        self
    }

    /// Gives the event the context of a trace, as a [W3C
    /// `traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header). The processor reads it with
    /// [`traceparent`](Event::traceparent).
    ///
    /// The text has version, trace id, span id and flags, 55 bytes in lower case, checked at the emit. With the feature
    /// `opentelemetry` an event without a context gets that of the current span.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::Event;
    ///
    /// let from_a_request = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let event = Event::new("departed").traced(from_a_request);
    /// assert_eq!(event.traceparent(), Some(from_a_request));
    /// ```
    #[must_use]
    pub fn traced(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into().into());
        self
    }

    /// Makes the event a timer, which moves into the eventbox after the database's clock has reached this time.
    ///
    /// A time in the past is allowed: the timer moves with the next call of [`move_due`](crate::timer::move_due), which
    /// a runtime makes by itself. [`cancel`](crate::timer::cancel()) takes a named timer back. The last call of
    /// `due_at` and `due_in` counts.
    ///
    /// # Units and limits
    ///
    /// Stored in microseconds (SQLite's clock has milliseconds). At most [`MAX_TIMER`](crate::timer::MAX_TIMER) from
    /// now, checked at the emit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use eventbox::{Event, timer::Due};
    ///
    /// let new_year = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    /// let event = Event::new("happy new year").named("2030").due_at(new_year);
    /// assert_eq!(event.due(), Some(Due::At(new_year)));
    /// ```
    #[must_use]
    pub fn due_at(mut self, at: SystemTime) -> Self {
        self.due = Some(Due::At(at));
        self
    }

    /// Makes the event a timer that moves into the eventbox after this time since its emit, by the database's clock.
    ///
    /// As [`due_at`](Event::due_at), but independent of this process's clock, which may be wrong.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use eventbox::Event;
    ///
    /// let reminder = Event::new("not paid yet?").named("reminder").due_in(Duration::from_secs(3 * 86_400));
    /// assert!(reminder.due().is_some());
    /// ```
    #[must_use]
    pub fn due_in(mut self, wait: Duration) -> Self {
        self.due = Some(Due::In(wait));
        self
    }

    /// Returns when the event moves into its eventbox; `None` when it moves at once, and for an event that was listed
    /// from an eventbox.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        self.due
    }

    /// Returns the event's id; nil before the emit.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Returns the name that the sender gave.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the context of the trace in which the event was emitted, as a W3C `traceparent`; `None` when the sender
    /// had none.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Returns the bytes that the sender gave.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the bytes without a copy.
    #[cfg(feature = "peer")]
    pub(crate) fn bytes(&self) -> Bytes {
        self.value.clone()
    }

    /// Reads the value as JSON.
    ///
    /// A type that borrows (`&str`) reads only texts without escapes, because a text with escapes needs a new string.
    /// Use `String`, or `Cow<str>` with `#[serde(borrow)]`.
    ///
    /// # Errors
    ///
    /// When the value is no JSON or not a `T`. The error names the event; the error of `serde_json` is its source.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, BoxError> {
        serde_json::from_slice(&self.value).map_err(|error| self.unreadable("JSON", error))
    }

    /// Reads the value as a message in protobuf.
    ///
    /// # Errors
    ///
    /// When the value is no `M`. The error names the event; the error of `prost` is its source. Protobuf does not tell
    /// types apart: the bytes of another message may be readable as an `M`.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::Event;
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Departed {
    ///     #[prost(int32, tag = "1")]
    ///     delay_minutes: i32,
    /// }
    ///
    /// let event = Event::from_protobuf(&Departed { delay_minutes: 75 });
    /// assert_eq!(event.protobuf::<Departed>()?.delay_minutes, 75);
    /// assert!(Event::new("late").protobuf::<Departed>().is_err());
    /// # Ok::<(), eventbox::BoxError>(())
    /// ```
    pub fn protobuf<M: prost::Message + Default>(&self) -> Result<M, BoxError> {
        M::decode(&*self.value).map_err(|error| self.unreadable("protobuf", error))
    }

    fn unreadable(&self, encoding: &'static str, source: impl Into<BoxError>) -> BoxError {
        PayloadError { id: self.id, encoding, source: source.into() }.into()
    }

    /// Makes a timer's event from its row.
    pub(crate) fn timed(row: TimerRow) -> Self {
        Event { due: Some(Due::at_us(row.due_at_us)), ..Event::listed(row.event) }
    }

    /// Returns the event with another id, as an emit does.
    #[cfg(feature = "testing")]
    pub(crate) fn with_id(self, id: Uuid) -> Self {
        Event { id: EventId(id), ..self }
    }

    pub(crate) fn listed(row: ListedRow) -> Self {
        Event {
            id: EventId(row.id),
            name: row.name.map(Into::into),
            traceparent: row.traceparent.map(Into::into),
            origin: row.origin.and_then(SharedOrigin::read),
            due: None,
            value: row.value.into(),
        }
    }
}

/// An event whose value cannot be read as the wanted type: [`Event::json`] and [`Event::protobuf`] return it, boxed.
#[derive(Debug, thiserror::Error)]
#[error("event {id} cannot be read as {encoding}")]
#[non_exhaustive]
pub struct PayloadError {
    /// Id of the event.
    pub id: EventId,
    /// Encoding that the reader expected: `JSON` or `protobuf`.
    pub encoding: &'static str,
    /// Error of the decoder.
    pub source: BoxError,
}

/// Shows the size of the value instead of the value: payloads do not belong into logs.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id.0)
            .field("name", &self.name)
            .field("due", &self.due)
            .field("value_bytes", &self.value.len())
            .finish()
    }
}
