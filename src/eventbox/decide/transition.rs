//! The decision of a processor: transitions, side effects and hooks.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;

use crate::cloudevent::CloudEvent;
use crate::error::BoxError;
use crate::eventbox::event::{Event, EventId};
use crate::recipient::Recipient;
use crate::store::Backend;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Effect<B> =
    dyn for<'t> FnOnce(&'t mut <B as sqlx::Database>::Connection) -> BoxFuture<'t, Result<(), BoxError>> + Send;

/// Work inside the transaction of the turn: it takes effect exactly once, with the turn, or not at all.
///
/// The effect gets the real connection of the engine, so it may run any statement in the transaction and
/// [`emit`](crate::emit) to other recipients. It must not end the transaction:
///
/// | Statement of the effect | Result |
/// | --- | --- |
/// | `COMMIT`, `ROLLBACK`, also with a new `BEGIN` | [`Misuse`](crate::Error::Misuse); nothing of the turn is applied |
/// | a statement that fails, whose error the effect drops | on Postgres the same: the transaction cannot commit |
/// | `CLOSE ALL` on Postgres | the same, because the library guards the transaction with a cursor |
/// | `CLOSE ALL` and then `COMMIT` on Postgres | too late an error: the events are gone, the state is not saved |
/// | `SET` of a session | in force until the turn ends; then the library closes the connection |
///
/// # Examples
///
/// ```
/// use eventbox::{Event, Recipient, SideEffect};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let effect = SideEffect::<sqlx::Sqlite>::new(move |tx| {
///     Box::pin(async move {
///         eventbox::emit(&mut *tx, &airport, Event::new("departed")).await?;
///         Ok(())
///     })
/// });
/// # Ok::<(), eventbox::Error>(())
/// ```
pub struct SideEffect<B: Backend>(Box<Effect<B>>);

impl<B: Backend> SideEffect<B> {
    /// Makes a side effect from a closure. Pass the closure directly, so that the compiler infers its lifetimes.
    pub fn new<F>(effect: F) -> Self
    where
        F: for<'t> FnOnce(&'t mut B::Connection) -> BoxFuture<'t, Result<(), BoxError>> + Send + 'static,
    {
        SideEffect(Box::new(effect))
    }

    /// Makes one side effect of several. They run in order, and the first error stops the rest and rolls the turn back.
    ///
    /// Returns `None` without effects, so that the transition may still be a no-op.
    #[must_use]
    pub fn chain(effects: impl IntoIterator<Item = Option<SideEffect<B>>>) -> Option<Self> {
        let effects: Vec<_> = effects.into_iter().flatten().collect();
        if effects.is_empty() {
            return None;
        }
        Some(SideEffect::new(move |tx| {
            Box::pin(async move {
                for effect in effects {
                    effect.run(&mut *tx).await?;
                }
                Ok(())
            })
        }))
    }

    pub(crate) async fn run(self, tx: &mut B::Connection) -> Result<(), BoxError> {
        (self.0)(tx).await
    }
}

impl<B: Backend> fmt::Debug for SideEffect<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SideEffect")
    }
}

/// Work in memory after the commit of the turn. Best effort, for work that a crash may lose (a cache, a metric, a
/// wake-up).
///
/// Work that must not be lost belongs into a [`SideEffect`].
///
/// # Examples
///
/// ```
/// use eventbox::PostProcess;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let hook = PostProcess::new(|| async { Err("the cache is not there".into()) });
/// assert_eq!(hook.run().await.unwrap_err().to_string(), "the cache is not there");
/// # }
/// ```
pub struct PostProcess(Box<dyn FnOnce() -> BoxFuture<'static, Result<(), BoxError>> + Send>);

impl PostProcess {
    /// Makes a hook from a closure.
    pub fn new<F, Fut>(hook: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        PostProcess(Box::new(move || Box::pin(hook())))
    }

    /// Runs the hook.
    ///
    /// # Errors
    ///
    /// The hook's own error, or the text of its panic. The turn stays committed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future stops the hook in the middle. The turn stays committed.
    pub async fn run(self) -> Result<(), BoxError> {
        let hook = AssertUnwindSafe(async { (self.0)().await });
        hook.catch_unwind().await.unwrap_or_else(|panic| Err(panic_text(&*panic).into()))
    }
}

/// Errors of the failed hooks of a turn, in their order.
#[derive(Debug)]
pub struct HookErrors(pub(crate) Vec<BoxError>);

impl HookErrors {
    /// Returns one error for each hook that failed.
    #[must_use]
    pub fn errors(&self) -> &[BoxError] {
        &self.0
    }
}

impl fmt::Display for HookErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hooks = if self.0.len() == 1 { "hook" } else { "hooks" };
        write!(f, "{} {hooks} failed", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}

impl std::error::Error for HookErrors {}

/// Returns the text of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("with a value that is no text"))
}

impl fmt::Debug for PostProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostProcess")
    }
}

/// One step of a turn: an optional new state, events to consume, an optional side effect in the transaction, messages
/// to publish, and an optional hook after the commit.
///
/// A transition that has none of these is dropped.
///
/// # Examples
///
/// ```
/// use eventbox::{Event, PostProcess, Transition};
///
/// # let events = [Event::new("departed")];
/// let count = Transition::<sqlx::Sqlite, u64>::to(7)
///     .consuming(&events)
///     .post_process(PostProcess::new(|| async { Ok(()) }));
/// # let _ = count;
/// ```
#[derive(Debug)]
#[must_use]
pub struct Transition<B: Backend, S> {
    pub(crate) target: Option<S>,
    pub(crate) consumed: Vec<EventId>,
    pub(crate) side_effect: Option<SideEffect<B>>,
    pub(crate) published: Vec<CloudEvent>,
    pub(crate) emitted: Vec<(Recipient, Event)>,
    pub(crate) post_process: Option<PostProcess>,
    pub(crate) independent: bool,
}

impl<B: Backend, S> Transition<B, S> {
    /// Makes a step to a new state, which is saved with the next version, also when it equals the old state.
    pub fn to(state: S) -> Self {
        Transition { target: Some(state), ..Self::stay() }
    }

    /// Makes a step that leaves the state unchanged.
    pub fn stay() -> Self {
        Transition {
            target: None,
            consumed: Vec::new(),
            side_effect: None,
            published: Vec::new(),
            emitted: Vec::new(),
            post_process: None,
            independent: false,
        }
    }

    /// Consumes events: the turn removes them. Takes events or their ids, and adds to those of earlier calls.
    pub fn consuming<I>(mut self, events: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<EventId>,
    {
        self.consumed.extend(events.into_iter().map(Into::into));
        self
    }

    /// Sets the side effect. [`SideEffect::chain`] makes one of several.
    pub fn side_effect(mut self, effect: impl Into<Option<SideEffect<B>>>) -> Self {
        self.side_effect = effect.into();
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

    /// Emits events, to other recipients or to this one, in one statement of the turn's transaction, after the side
    /// effect; the limits are those of [`emit_all`](crate::emit_all), checked before any SQL.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::{Event, Recipient, Transition};
    ///
    /// # let events = [Event::new("departed")];
    /// let airport = Recipient::new("airport", "JFK")?;
    /// let departed = Transition::<sqlx::Sqlite, u64>::stay().consuming(&events);
    /// let departed = departed.emitting([(airport, Event::new("departed"))]);
    /// # let _ = departed;
    /// # Ok::<(), eventbox::Error>(())
    /// ```
    pub fn emitting(mut self, events: impl IntoIterator<Item = (Recipient, Event)>) -> Self {
        self.emitted.extend(events);
        self
    }

    /// Sets the hook to run after the commit.
    pub fn post_process(mut self, hook: impl Into<Option<PostProcess>>) -> Self {
        self.post_process = hook.into();
        self
    }

    /// Returns the same step with another type of state.
    pub(crate) fn map_state<T>(self, map: impl FnOnce(S) -> T) -> Transition<B, T> {
        Transition {
            target: self.target.map(map),
            consumed: self.consumed,
            side_effect: self.side_effect,
            published: self.published,
            emitted: self.emitted,
            post_process: self.post_process,
            independent: self.independent,
        }
    }

    /// Lets the transition fail alone. When its side effect fails, the effect is rolled back to a savepoint and its
    /// events stay, while the other transitions of the turn commit. [`Turn::failures`](crate::Turn::failures) reports
    /// the failure. Its target is then left out too, so other transitions must not build on it.
    ///
    /// Contention and an unavailable database still roll the whole turn back. So does a failure that leaves nothing to
    /// commit. An independent transition costs two more statements.
    pub fn independent(mut self) -> Self {
        self.independent = true;
        self
    }

    pub(crate) fn is_no_op(&self) -> bool {
        if !self.published.is_empty() {
            return false;
        }
        let acts = self.side_effect.is_some() || self.post_process.is_some() || !self.emitted.is_empty();
        !acts && self.target.is_none() && self.consumed.is_empty()
    }
}

/// Decision of a processor about a batch: transitions, applied in order, and garbage.
///
/// # Examples
///
/// ```
/// use eventbox::{Mutation, Transition};
///
/// let nothing: Mutation<sqlx::Sqlite, u64> = Mutation::none();
/// let count: Mutation<sqlx::Sqlite, u64> = Transition::to(7).into();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Mutation<B: Backend, S> {
    pub(crate) transitions: Vec<Transition<B, S>>,
    pub(crate) garbage: Vec<EventId>,
}

impl<B: Backend, S> Mutation<B, S> {
    /// Decides nothing: no transaction, and the events stay.
    pub fn none() -> Self {
        Mutation { transitions: Vec::new(), garbage: Vec::new() }
    }

    /// Adds a step.
    pub fn then(mut self, transition: Transition<B, S>) -> Self {
        self.transitions.push(transition);
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

impl<B: Backend, S> Mutation<B, S> {
    pub(crate) fn map_state<T>(self, map: impl Fn(S) -> T) -> Mutation<B, T> {
        let transitions = self.transitions.into_iter().map(|transition| transition.map_state(&map)).collect();
        Mutation { transitions, garbage: self.garbage }
    }
}

impl<B: Backend, S> From<Transition<B, S>> for Mutation<B, S> {
    fn from(transition: Transition<B, S>) -> Self {
        Mutation::none().then(transition)
    }
}
