//! What a connector hands to the core.

use bytes::Bytes;

use crate::eventbox::Event;

/// One piece of data that arrived on a stream.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Arrival;
///
/// let off_the_wire = Arrival::bytes("departed\nlanded\n");
/// let decoded = Arrival::value("departed").id("flight-1545").field("path", "/flights");
/// # let _ = (off_the_wire, decoded);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Arrival {
    pub(super) data: Data,
    pub(super) id: Option<String>,
    pub(super) of_peer: bool,
    pub(super) number: Option<u64>,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) checkpoint: Option<String>,
    pub(super) cause: Option<Event>,
    pub(super) is_acknowledged_by_answer: bool,
}

/// The data of an arrival.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// For interceptors and the codec.
    Bytes(Bytes),
    /// An event's value.
    Value(Bytes),
}

impl Arrival {
    fn new(data: Data) -> Self {
        Arrival {
            data,
            id: None,
            of_peer: false,
            number: None,
            fields: Vec::new(),
            checkpoint: None,
            cause: None,
            is_acknowledged_by_answer: false,
        }
    }

    /// Makes an arrival of bytes, which go through the interceptors and the codec.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(Data::Bytes(bytes.into()))
    }

    /// Makes an arrival of one event that is decoded already.
    pub fn value(value: impl Into<Bytes>) -> Self {
        Self::new(Data::Value(value.into()))
    }

    /// Sets the id within the stream, which a re-send has too. The name of the event becomes `peer:stream:id`, so a
    /// re-send changes nothing. Without an id the running number counts.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Makes the id one of the whole peer: a re-send on another stream changes nothing either.
    pub fn of_peer(mut self) -> Self {
        self.of_peer = true;
        self
    }

    /// Sets the running number within the stream: the number of a request, an offset. Without it the core counts from
    /// 1.
    pub fn number(mut self, number: u64) -> Self {
        self.number = Some(number);
        self
    }

    /// Adds a field for the templates of the mapping.
    pub fn field(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((key, value.into()));
        self
    }

    /// Adds the origin of the event that this arrival answers, so that what it causes finds its way back too.
    pub fn caused_by(mut self, cause: &Event) -> Self {
        self.cause = Some(cause.clone());
        self
    }

    /// Says that the outside is told of this arrival only by an event that answers it.
    ///
    /// The emit then need not wait until the disk has its commit. The turn that answers waits for its own commit, which
    /// is later in the log of the database, and makes both durable. A crash of the database in between loses the
    /// arrival, and nobody was told that it was taken. Arrivals with an id wait for the disk all the same: a re-send
    /// may be told that the first copy was taken.
    pub fn acknowledged_by_answer(mut self) -> Self {
        self.is_acknowledged_by_answer = true;
        self
    }

    /// Stores a position in the transaction of the emit; [`Session::checkpoint`](crate::peer::Session::checkpoint)
    /// reads it back.
    pub fn checkpoint(mut self, position: impl Into<String>) -> Self {
        self.checkpoint = Some(position.into());
        self
    }
}

impl From<Bytes> for Arrival {
    fn from(bytes: Bytes) -> Self {
        Arrival::bytes(bytes)
    }
}

impl From<Vec<u8>> for Arrival {
    fn from(bytes: Vec<u8>) -> Self {
        Arrival::bytes(bytes)
    }
}

/// What became of arrivals. Everything in it is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Events that are in eventboxes now.
    pub events: usize,
    /// Events of these that had been emitted before.
    pub duplicates: usize,
    /// Pieces that could not be decoded, mapped or emitted; they went to the *err* port.
    pub errors: usize,
    /// Number of the first event.
    pub first: Option<u64>,
    /// Number of the last event.
    pub last: Option<u64>,
}
