//! What lies in a box.

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
use crate::store::{ListedRow, TimerRow};

/// How long after its emit an event may well commit. What is older is removed as a range; what commits later still makes that round fall back to
/// ids.
pub(super) const LATE_COMMIT: Duration = Duration::from_secs(1);

/// How long after its emit an event may commit and still be listed before what its sender emits after that commit: emits that wait for a connection
/// or a name, and transactions of the sender. A runtime that consumes a box faster lists the last minute again, and finds nothing there.
#[cfg(feature = "runtime")]
const LATEST_COMMIT: Duration = Duration::from_secs(60);

/// The id of an event: unique, minted at its emit, and ordered as the events of one process were emitted.
///
/// It is a UUIDv7, so it carries the time of the emit in milliseconds.
///
/// # Examples
///
/// ```
/// use eventbox::{Event, EventId};
///
/// // Written down on a page, and back.
/// let id = Event::new("departed").id();
/// assert_eq!(EventId::from(*id.as_uuid()), id);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub(crate) Uuid);

impl EventId {
    /// Before every id; what an event has that is not emitted yet.
    pub(crate) const NIL: EventId = EventId(Uuid::nil());

    /// A new id, greater than every id that this process minted before, also when its clock goes backwards.
    pub(crate) fn mint() -> Self {
        EventId(clock::new_id())
    }

    /// When the event was emitted, by the clock of the process that emitted it.
    #[must_use]
    pub fn emitted_at(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.0.get_timestamp().map_or((0, 0), |stamp| stamp.to_unix());
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// This id, or one before the ids of the last [`LATEST_COMMIT`], whichever is smaller.
    #[cfg(feature = "runtime")]
    pub(crate) fn before_late_ones(self) -> Self {
        let now = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The first 48 bits are milliseconds.
        let settled = now.saturating_sub(LATEST_COMMIT).as_millis() << 80;
        EventId(Uuid::from_u128(self.0.as_u128().min(settled)))
    }

    /// The id as its UUID.
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

/// An id that was written down, on an administrator's page, say.
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
/// Cheap to clone. The id is minted when the event is emitted; before that it is the nil UUID.
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
    due: Option<Due>,
    value: Bytes,
}

impl Event {
    /// An event without a name: every emit of it is another event.
    ///
    /// At most [`MAX_VALUE_BYTES`](crate::MAX_VALUE_BYTES), checked at the emit; far smaller is better.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Event { id: EventId::NIL, name: None, traceparent: None, due: None, value: value.into() }
    }

    /// An event whose value is `value` as JSON; [`json`](Event::json) reads it back.
    ///
    /// # Errors
    ///
    /// When JSON cannot say it, with the name of the field: a number that is NaN or infinite, `Some(None)`, a map whose keys are no strings,
    /// or what is nested deeper than [`MAX_JSON_DEPTH`](crate::MAX_JSON_DEPTH). Its reader would not give that back.
    pub fn from_json<T: serde::Serialize>(value: &T) -> Result<Self, BoxError> {
        Ok(Event::new(json::to_vec(value)?))
    }

    /// An event whose value is `message` in protobuf; [`protobuf`](Event::protobuf) reads it back.
    ///
    /// A message that holds itself more than 100 levels deep can be written, and no reader of protobuf takes it.
    #[must_use]
    pub fn from_protobuf(message: &impl prost::Message) -> Self {
        Event::new(message.encode_to_vec())
    }

    /// Names the event (its idempotency key): while it lives, and for the tombstone delay after, emitting the name again to the same recipient
    /// changes nothing and answers [`Duplicate`](crate::Emitted::Duplicate) or [`Tombstoned`](crate::Emitted::Tombstoned).
    ///
    /// 1 to [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES) bytes without NUL, checked at the emit. Two recipients may use the same name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into().into());
        self
    }

    /// Gives the event the context of a trace, as a [W3C `traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header): whoever
    /// processes the event is given it back ([`traceparent`](Event::traceparent)).
    ///
    /// Version, trace id, span id and flags, 55 bytes in lower case; checked at the emit. With the feature `opentelemetry` an event that
    /// has none is given that of the current span.
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

    /// Makes the event a timer: it comes into the box when the database's clock shows this time, or soon after.
    ///
    /// A time that is over is fine: it comes with the next move. See [`move_due`](crate::move_due) for who moves timers, and
    /// [`cancel`](crate::cancel()) for taking a named one back. The last of `due_at` and `due_in` counts.
    ///
    /// # Units and limits
    ///
    /// Kept in microseconds (SQLite's clock shows milliseconds); at most [`MAX_TIMER`](crate::MAX_TIMER) from now, checked at the emit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use eventbox::{Due, Event};
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

    /// Makes the event a timer that comes into the box so long after its emit, by the database's clock.
    ///
    /// As [`due_at`](Event::due_at), and better than it where the clock of this process may be wrong.
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

    /// When the event is to come into its box; `None` when that is at once, and for what was listed from a box.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        self.due
    }

    /// The event's id; nil before it is emitted.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The name that the sender gave.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The context of the trace in which the event was emitted, as a W3C `traceparent`; `None` when the sender had none.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// The bytes that the sender gave.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The value, read as JSON.
    ///
    /// # Errors
    ///
    /// When the value is no JSON or not a `T`; the error names the event, and what `serde_json` says is its source.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, BoxError> {
        serde_json::from_slice(&self.value).map_err(|error| self.unreadable("JSON", error))
    }

    /// The value, read as a message in protobuf.
    ///
    /// # Errors
    ///
    /// When the value is no `M`; the error names the event, and what `prost` says is its source. Protobuf does not tell types apart: the
    /// bytes of another message may well be read as an `M`.
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

    /// What becomes an event of the box when it is due.
    pub(crate) fn timed(row: TimerRow) -> Self {
        Event { due: Some(Due::at_us(row.due_at_us)), ..Event::listed(row.event) }
    }

    /// The same with another id, as an emit gives it one.
    #[cfg(feature = "testing")]
    pub(crate) fn with_id(self, id: Uuid) -> Self {
        Event { id: EventId(id), ..self }
    }

    pub(crate) fn listed(row: ListedRow) -> Self {
        Event {
            id: EventId(row.id),
            name: row.name.map(Into::into),
            traceparent: row.traceparent.map(Into::into),
            due: None,
            value: row.value.into(),
        }
    }
}

/// An event whose value is not what its reader wants: [`Event::json`] and [`Event::protobuf`] return it, boxed.
#[derive(Debug, thiserror::Error)]
#[error("event {id} cannot be read as {encoding}")]
#[non_exhaustive]
pub struct PayloadError {
    /// The event.
    pub id: EventId,
    /// What it was read as: `JSON` or `protobuf`.
    pub encoding: &'static str,
    /// What the decoder said.
    pub source: BoxError,
}

/// Shows the size of the value and not the value: payloads do not belong into logs.
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
