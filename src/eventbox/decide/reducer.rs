//! The trait that a user implements when the library keeps the state.

use crate::cloudevent::CloudEvent;
use crate::error::BoxError;
use crate::eventbox::decide::state::{Json, MAX_STATE_BYTES, StateCodec};
use crate::eventbox::decide::transition::PostProcess;
use crate::eventbox::event::{Event, EventId};
use crate::recipient::Recipient;

/// Decides what the events of a recipient do to its state, which the library keeps. This is the fast path, because
/// decisions are plain data.
///
/// Use it unless the state has to be in tables of your own; for that there is [`Processor`](crate::Processor).
/// [`reduce_batch`](crate::reduce_batch) takes one recipient through a turn; [`state`](fn@crate::state) reads its state
/// from outside.
///
/// The state of an entity that does not exist yet, or is [gone](Outcome::gone), is the default. `C` is the
/// [codec](StateCodec) that stores it, JSON by default.
///
/// # Examples
///
/// ```
/// use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
///
/// struct Counter;
///
/// impl Reducer for Counter {
///     type State = u64;
///
///     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
///         Ok(Outcome::to(count + events.len() as u64).consuming(events))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// let airport = Recipient::new("airport", "JFK")?;
/// eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// let turn = eventbox::reduce_batch(&pool, &airport, &Counter, 100.try_into()?).await?;
/// assert_eq!((turn.number, turn.consumed), (Some(1), 1));
///
/// let now = eventbox::state::<u64>(&pool, &airport).await?.ok_or("it had a turn")?;
/// assert_eq!((now.turn, now.state), (1, Some(1)));
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Reducer`",
    note = "implement `reduce`, with a `State` that is `Default + Send` and that the codec can encode"
)]
pub trait Reducer<C = Json>: Send + Sync
where
    C: StateCodec<Self::State>,
{
    /// State of an entity.
    type State: Default + Send;

    /// Decides the new state, which events are consumed, and which messages and events are sent.
    ///
    /// `events` holds the oldest events of the eventbox: at least one, oldest first, none twice. Events that the
    /// outcome does not consume stay. The method runs outside any transaction, and may run again for the same events,
    /// so it must be a function of its arguments. It occupies a thread of the runtime, so it should return within
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// An error or a panic rolls the turn back; nothing was changed.
    fn reduce(&self, to: &Recipient, events: &[Event], state: Self::State) -> Result<Outcome<Self::State>, BoxError>;

    /// Returns the most bytes that an encoded state may have; [`MAX_STATE_BYTES`] when not overridden.
    ///
    /// Every turn reads and writes the whole state, so keep it far smaller.
    fn max_state_bytes(&self) -> usize {
        MAX_STATE_BYTES
    }
}

/// Next state of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<S> {
    /// The stored state stays.
    Stay,
    /// This state replaces the stored state.
    To(S),
    /// The entity is gone: no state is kept, and the next turn gets the default. Its turns keep counting.
    Gone,
}

/// Decision of a reducer about a batch, as plain data: one transaction does all of it or nothing.
///
/// Its methods have the names of those of [`Transition`](crate::Transition), and a test reads the fields. When the new
/// state equals the stored state and nothing else is decided, there is no turn.
///
/// # Examples
///
/// ```
/// use eventbox::{Event, Next, Outcome, Recipient};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let outcome = Outcome::to(3).emitting([(airport, Event::new("departed"))]);
/// assert_eq!(outcome.next, Next::To(3));
/// assert_eq!(outcome.emitted.len(), 1);
/// # Ok::<(), eventbox::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct Outcome<S> {
    /// Next state.
    pub next: Next<S>,
    /// Events that are consumed.
    pub consumed: Vec<EventId>,
    /// Events that are superseded, and are removed with the turn.
    pub garbage: Vec<EventId>,
    /// Messages that are published, in order.
    pub published: Vec<CloudEvent>,
    /// Events that are emitted, in order.
    pub emitted: Vec<(Recipient, Event)>,
    /// Hooks to run after the commit, in order.
    pub post_process: Vec<PostProcess>,
}

impl<S> Outcome<S> {
    /// Sets a new state, also when it was changed in place. It is saved when its bytes differ from the stored bytes.
    pub fn to(state: S) -> Self {
        Outcome { next: Next::To(state), ..Self::stay() }
    }

    /// Keeps the stored state, and ignores changes to the state that `reduce` was given.
    pub fn stay() -> Self {
        Outcome {
            next: Next::Stay,
            consumed: Vec::new(),
            garbage: Vec::new(),
            published: Vec::new(),
            emitted: Vec::new(),
            post_process: Vec::new(),
        }
    }

    /// Removes the entity: no state is kept. Its turns keep counting.
    pub fn gone() -> Self {
        Outcome { next: Next::Gone, ..Self::stay() }
    }

    /// Adds events to consume: `&[Event]`, `[&event]`, `[event.id()]`.
    pub fn consuming<I>(mut self, events: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<EventId>,
    {
        self.consumed.extend(events.into_iter().map(Into::into));
        self
    }

    /// Publishes messages: they go into the outbox in the transaction of the turn, and from there to Chip Ingress, at
    /// least once.
    ///
    /// A message without an idempotency key gets one that is a pure function of the recipient, the turn, its position
    /// among the turn's messages and its content, so that a receiver can make it exactly once.
    pub fn publishing(mut self, messages: impl IntoIterator<Item = CloudEvent>) -> Self {
        self.published.extend(messages);
        self
    }

    /// Emits events, to other recipients or to this one, in one statement of the turn's transaction; the limits are
    /// those of [`emit_all`](crate::emit_all).
    pub fn emitting(mut self, events: impl IntoIterator<Item = (Recipient, Event)>) -> Self {
        self.emitted.extend(events);
        self
    }

    /// Adds a hook to run after the commit.
    pub fn post_process(mut self, hook: impl Into<Option<PostProcess>>) -> Self {
        self.post_process.extend(hook.into());
        self
    }

    /// Declares events superseded: the turn removes them exactly like consumed events.
    pub fn garbage<I>(mut self, events: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<EventId>,
    {
        self.garbage.extend(events.into_iter().map(Into::into));
        self
    }
}

/// Methods for rounds.
#[cfg(feature = "runtime")]
impl<S> Outcome<S> {
    /// Returns the outcome without the state, which has become bytes.
    pub(super) fn without_state(self) -> Outcome<()> {
        Outcome {
            next: Next::Stay,
            consumed: self.consumed,
            garbage: self.garbage,
            published: self.published,
            emitted: self.emitted,
            post_process: self.post_process,
        }
    }
}

#[cfg(any(feature = "runtime", feature = "testing"))]
impl<S> Outcome<S> {
    /// Returns whether the outcome does nothing apart from the state.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.sends() && self.consumed.is_empty() && self.garbage.is_empty() && self.post_process.is_empty()
    }

    /// Returns whether the outcome emits or publishes.
    fn sends(&self) -> bool {
        if !self.published.is_empty() {
            return true;
        }
        !self.emitted.is_empty()
    }
}
