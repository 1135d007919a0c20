//! The trait that a user implements when the state is in tables of the user.

use std::future::ready;

use crate::error::BoxError;
use crate::eventbox::decide::transition::Mutation;
use crate::eventbox::event::Event;
use crate::recipient::Recipient;
use crate::store::Backend;

/// Version of the user's own entity: 0 when the entity does not exist yet, plus one with every save of its state.
///
/// # Examples
///
/// ```
/// use eventbox::EVersion;
///
/// let of_a_new_entity = EVersion(0);
/// assert_eq!(of_a_new_entity.next(), EVersion(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EVersion(pub i64);

impl EVersion {
    /// Returns the next version.
    #[must_use]
    pub fn next(self) -> Self {
        EVersion(self.0.saturating_add(1))
    }
}

/// Decides what the events of a recipient do to its state, which lives in tables of your own.
///
/// [`process_batch`](crate::process_batch) calls the methods in the order below. Write them as plain `async fn`.
///
/// * [`load_state`](Processor::load_state) runs outside any transaction, on the connection it is given.
/// * [`prepare_mutation`](Processor::prepare_mutation) may do slow I/O: the turn gives its connection back as soon as
///   the method waits for anything. It may run again for the same events after contention, so it must not change
///   anything itself: its effects go into the [`Mutation`].
/// * [`fetch_eversion`](Processor::fetch_eversion) and [`save_state`](Processor::save_state) run inside the one
///   transaction of the turn.
///
/// The library's own turn protects the events: each is consumed by exactly one committed turn, whatever these methods
/// do. The entity's version protects the entity against writers that are not turns (an admin page, say): let
/// `fetch_eversion` lock the row (`SELECT … FOR UPDATE` on Postgres), else such a writer can slip in between it and
/// `save_state`.
///
/// A Runtime takes many recipients of a kind together, in one transaction ([`commits_alone`](Processor::commits_alone)
/// says no to that). [`load_states`](Processor::load_states), [`fetch_eversions`](Processor::fetch_eversions) and
/// [`save_states`](Processor::save_states) make one statement of what else is one for each recipient.
///
/// An error of any method rolls the turn back; nothing is lost. An error that has a `sqlx::Error` of contention in its
/// chain (a deadlock, say) is retried like any contention.
///
/// # Examples
///
/// The README has a complete one. Source: the contract is that of the eventbox of LUCI CV.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Processor` on `{B}`",
    note = "implement `load_state`, `prepare_mutation`, `fetch_eversion` and `save_state` as `async fn` for this engine"
)]
pub trait Processor<B: Backend>: Send + Sync {
    /// State of an entity, as this processor sees it. It is `'static`, because turns are compiled once for all types.
    type State: Send + Sync + 'static;

    /// Returns whether the library also calls the processor for an empty box; `false` when not overridden.
    ///
    /// A call of [`process_batch`](crate::process_batch) asks when it has found no event, before
    /// [`load_state`](Processor::load_state). With `true`, [`prepare_mutation`](Processor::prepare_mutation) gets no
    /// events, and its decision is a turn like any other. It must return [`Mutation::none`] when the entity needs
    /// nothing. A processor that always returns a [`Transition::to`](crate::Transition::to) commits a turn in every
    /// call. `testing::check_processor` finds this mistake.
    ///
    /// A Runtime begins turns only for recipients that have events. To have an entity processed later, emit an event
    /// with a [due time](crate::Event::due_in).
    ///
    /// # Examples
    ///
    /// See the guide `docs/writing-a-processor.md`.
    fn runs_without_events(&self) -> bool {
        false
    }

    /// Returns the bytes of memory that a state takes, if a Runtime may keep the state between two turns of a
    /// recipient; `None`, which is never, when not overridden.
    ///
    /// Use it for busy recipients whose state is expensive to load. The Runtime then calls
    /// [`load_state`](Processor::load_state) once for many turns: a turn gets the state that the turn before it saved,
    /// or the loaded state when that turn saved none. The Runtime asks after every turn, so a processor can let it keep
    /// small states and return `None` for a large one.
    ///
    /// A turn uses a kept state only when its listing reads the turn and the token with which the state was kept. Every
    /// turn of another process and every repair of an operator changes both, and then the turn loads. After an error
    /// the state is dropped. [`fetch_eversion`](Processor::fetch_eversion) runs in every transaction as always: when
    /// another writer has moved the version, the attempt is contention, and the retry loads.
    ///
    /// Override the method only where these rules hold:
    ///
    /// * Every other writer of the entity moves its [`EVersion`]. So does a side effect that writes the entity.
    /// * `load_state` returns what [`save_state`](Processor::save_state) was given, for example without rounding.
    /// * The state holds nothing that changes without the version, such as rows of other entities.
    /// * [`prepare_mutation`](Processor::prepare_mutation) does not change the state through a lock or a cell.
    ///
    /// [`process_batch`](crate::process_batch) keeps no state.
    ///
    /// # Units and limits
    ///
    /// Bytes, with those on the heap; an estimate will do. The kept states of all recipients share
    /// [`RuntimeConfig::state_cache_bytes`](crate::runtime::RuntimeConfig::state_cache_bytes) with the states of
    /// reducers, besides one state for each turn in flight. Without leases the Runtime keeps none.
    ///
    /// # Errors
    ///
    /// After a panic in this method the state is not kept. The turn stands.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::Processor;
    /// # use eventbox::{BoxError, EVersion, Event, Mutation, Recipient};
    /// # use sqlx::{Sqlite, SqliteConnection};
    ///
    /// struct Documents;
    ///
    /// impl Processor<Sqlite> for Documents {
    ///     type State = String;
    ///
    ///     fn kept_bytes(&self, document: &String) -> Option<usize> {
    ///         Some(size_of::<String>() + document.capacity())
    ///     }
    ///
    ///     // The other methods are as always.
    /// #   async fn load_state(
    /// #       &self,
    /// #       _: &mut SqliteConnection,
    /// #       _: &Recipient,
    /// #   ) -> Result<(String, EVersion), BoxError> {
    /// #       Ok((String::new(), EVersion(0)))
    /// #   }
    /// #   async fn prepare_mutation(
    /// #       &self,
    /// #       _: &Recipient,
    /// #       _: &[Event],
    /// #       _: &String,
    /// #   ) -> Result<Mutation<Sqlite, String>, BoxError> {
    /// #       Ok(Mutation::none())
    /// #   }
    /// #   async fn fetch_eversion(&self, _: &mut SqliteConnection, _: &Recipient) -> Result<EVersion, BoxError> {
    /// #       Ok(EVersion(0))
    /// #   }
    /// #   async fn save_state(
    /// #       &self,
    /// #       _: &mut SqliteConnection,
    /// #       _: &Recipient,
    /// #       _: &String,
    /// #       _: EVersion,
    /// #   ) -> Result<(), BoxError> {
    /// #       Ok(())
    /// #   }
    /// }
    ///
    /// let document = String::with_capacity(1_000);
    /// assert!(Documents.kept_bytes(&document).is_some_and(|bytes| bytes > 1_000));
    /// ```
    fn kept_bytes(&self, _state: &Self::State) -> Option<usize> {
        None
    }

    /// Returns whether each turn has a transaction for itself; `false` when not overridden.
    ///
    /// A Runtime takes many recipients of a kind through one transaction. It asks once, when it starts. Return `true`
    /// when the code in the transaction must not share one with other recipients: it takes long, it sets roles or
    /// settings with `SET LOCAL`, which last until the end of the transaction, or it locks rows that others wait for.
    ///
    /// # Examples
    ///
    /// See the guide `docs/writing-a-processor.md`.
    fn commits_alone(&self) -> bool {
        false
    }

    /// Loads the state and its version: a default state and version 0 when the entity does not exist.
    ///
    /// Read with `conn` only, and read the version together with the state.
    fn load_state(
        &self,
        conn: &mut B::Connection,
        to: &Recipient,
    ) -> impl Future<Output = Result<(Self::State, EVersion), BoxError>> + Send;

    /// Decides: which transitions the events cause, which events they consume, and which events are garbage.
    ///
    /// `events` are the oldest of the box, oldest first, none twice. There is at least one, unless the processor
    /// [runs without events](Processor::runs_without_events). Events that no transition consumes stay.
    fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        state: &Self::State,
    ) -> impl Future<Output = Result<Mutation<B, Self::State>, BoxError>> + Send;

    /// Returns the version of the entity in the transaction; a version other than the loaded one rolls the turn back as
    /// contention.
    fn fetch_eversion(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
    ) -> impl Future<Output = Result<EVersion, BoxError>> + Send;

    /// Saves the state of the last transition that has one, with the new version. Called at most once a turn.
    fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &Self::State,
        eversion: EVersion,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Loads the states and versions of many recipients, for a Runtime: `None`, when not overridden, makes it call
    /// [`load_state`](Processor::load_state) for each.
    ///
    /// Write it with one statement, as [`load_state`](Processor::load_state) is written for one recipient: outside any
    /// transaction, on this connection only. The recipients are different ones of one kind, at most
    /// [`RuntimeConfig::processor_recipients`](crate::runtime::RuntimeConfig::processor_recipients).
    ///
    /// # What comes back
    ///
    /// One state and version for each recipient, in the given order.
    ///
    /// # Errors
    ///
    /// After an error, or a wrong number of states, each of the recipients gets a turn of its own, which calls
    /// [`load_state`](Processor::load_state).
    ///
    /// # Examples
    ///
    /// See the guide `docs/writing-a-processor.md`.
    #[allow(clippy::type_complexity, reason = "what load_state returns, many times")]
    fn load_states(
        &self,
        _conn: &mut B::Connection,
        _of: &[Recipient],
    ) -> impl Future<Output = Result<Option<Vec<(Self::State, EVersion)>>, BoxError>> + Send {
        ready(Ok(None))
    }

    /// Returns the versions of many entities in the transaction of a round, in the given order: `None`, when not
    /// overridden, makes the Runtime call [`fetch_eversion`](Processor::fetch_eversion) for each.
    ///
    /// Lock the rows, as [`fetch_eversion`](Processor::fetch_eversion) does. A round with side effects calls it twice,
    /// before the first and behind the last: when a side effect has moved the version of a recipient of the round, that
    /// recipient gets a turn of its own.
    ///
    /// # Errors
    ///
    /// As [`load_states`](Processor::load_states), after the transaction is rolled back.
    fn fetch_eversions(
        &self,
        _tx: &mut B::Connection,
        _of: &[Recipient],
    ) -> impl Future<Output = Result<Option<Vec<EVersion>>, BoxError>> + Send {
        ready(Ok(None))
    }

    /// Saves the states of many entities with their new versions, in the transaction of a round, and returns `true`:
    /// `false`, when not overridden, makes the Runtime call [`save_state`](Processor::save_state) for each.
    ///
    /// It is called at most once a round, behind all side effects. A round that has side effects calls it only when
    /// [`fetch_eversions`](Processor::fetch_eversions) is overridden too, because it compares the versions once more
    /// before it.
    ///
    /// # Errors
    ///
    /// As [`load_states`](Processor::load_states), after the transaction is rolled back.
    fn save_states(
        &self,
        _tx: &mut B::Connection,
        _states: &[(&Recipient, &Self::State, EVersion)],
    ) -> impl Future<Output = Result<bool, BoxError>> + Send {
        ready(Ok(false))
    }
}
