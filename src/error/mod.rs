//! The errors of the crate's front door.

mod state;

use std::fmt;

pub use state::StateError;

/// An error of the user's own code, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Result of the functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on an eventbox did not succeed.
///
/// Ask [`is_contention`](Error::is_contention) and [`is_transient`](Error::is_transient) instead of matching: both
/// mean that trying again may help. Nothing was changed, except after [`Unknown`](Error::Unknown). The text names the
/// recipient and what was attempted; the cause is in [`source`](std::error::Error::source) and is not repeated in the
/// text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another writer of the same recipient came first, or the database asked to try again.
    #[error("{attempt}: another writer came first")]
    #[non_exhaustive]
    Contention {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database, if the database failed.
        source: Option<BoxError>,
    },
    /// A listing of a set is older than the tombstone delay, by the database's clock: list again.
    #[error("{attempt}: the listing is stale ({age:?} old, over the tombstone delay of {delay:?}): list again")]
    #[non_exhaustive]
    Stale {
        /// The attempt, with the recipient.
        attempt: String,
        /// Age of the listing.
        age: std::time::Duration,
        /// Largest age of a listing.
        delay: std::time::Duration,
    },
    /// A shard was changed since its spec was read: its revision is not the expected one. Nothing was changed, also no
    /// other shard of the call.
    #[error("{attempt}: shard {shard} is at revision {found}, and not at {expected}: read its spec again")]
    #[non_exhaustive]
    RevisionConflict {
        /// The attempt.
        attempt: String,
        /// The first such shard.
        shard: u8,
        /// Revision that the call expected.
        expected: i64,
        /// Revision that the shard has; 0 when it has no spec.
        found: i64,
    },
    /// The database could not be reached or is too busy. Nothing was changed.
    #[error("{attempt}: the database is not available")]
    #[non_exhaustive]
    Transient {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database or the network.
        source: BoxError,
    },
    /// The connection was lost during a commit, and its outcome is not known.
    ///
    /// A named event may be emitted again; an unnamed event might then be there twice. A turn can be processed
    /// again: its events are either consumed or still there.
    #[error("{attempt}: the connection was lost during the commit, so the outcome is unknown")]
    #[non_exhaustive]
    Unknown {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error that ended the connection.
        source: BoxError,
    },
    /// The call itself is wrong. Refused before any SQL, so nothing was changed.
    #[error("{attempt}: {misuse}")]
    #[non_exhaustive]
    Misuse {
        /// The attempt, with the recipient.
        attempt: String,
        /// The problem.
        misuse: Misuse,
    },
    /// The user's own code failed, and the turn was rolled back.
    #[error("{attempt}: the processor failed")]
    #[non_exhaustive]
    Processor {
        /// The step, with the recipient.
        attempt: String,
        /// The user's error.
        source: BoxError,
    },
    /// A [`RoundHooks`](crate::runtime::RoundHooks) of the user failed, and nothing was changed. No event is blamed.
    #[error("{attempt}: a round hook failed")]
    #[non_exhaustive]
    RoundHook {
        /// The attempt.
        attempt: String,
        /// The user's error, or the [`Misuse`] of the transaction.
        source: BoxError,
    },
    /// The user's code, or a lock of another transaction, took longer than a turn may, and the turn was rolled back.
    #[error("{attempt}: not done within {limit:?}, so it was rolled back")]
    #[non_exhaustive]
    Deadline {
        /// The step, with the recipient.
        attempt: String,
        /// Longest time of a turn.
        limit: std::time::Duration,
    },
    /// The state that the library keeps for a recipient cannot be read or written. Nothing was changed.
    #[error("{attempt}: its state is not usable")]
    #[non_exhaustive]
    State {
        /// The attempt, with the recipient.
        attempt: String,
        /// The problem with the state.
        source: StateError,
    },
    /// The recipient is paused: its events wait until it is resumed.
    #[error("{attempt}: the recipient is paused; resume it with eventbox::admin::resume")]
    #[non_exhaustive]
    Paused {
        /// The attempt, with the recipient.
        attempt: String,
    },
    /// The eventbox has as many waiting events as the caller allows. Nothing was emitted.
    #[error(
        "{attempt}: the eventbox is full: {max_waiting} events or more wait, the oldest for {oldest_age:?}: emit again \
         later, or with a larger max_waiting"
    )]
    #[non_exhaustive]
    Full {
        /// The attempt, with the recipient.
        attempt: String,
        /// Bound of the caller: [`EmitOptions::max_waiting`](crate::EmitOptions::max_waiting).
        max_waiting: u32,
        /// Age of the oldest event that waits.
        oldest_age: std::time::Duration,
    },
    /// The database refused a statement; trying again does not help.
    #[error("{attempt}: the database refused")]
    #[non_exhaustive]
    Database {
        /// The attempt, with the recipient.
        attempt: String,
        /// Error of the database.
        source: BoxError,
    },
    /// The database is not fit for eventboxes; the text says what to do.
    #[error("{attempt}: {problem}")]
    #[non_exhaustive]
    Setup {
        /// The attempt.
        attempt: String,
        /// The problem and its remedy.
        problem: String,
    },
}

impl Error {
    /// True when another writer came first: read again and try again.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        matches!(self, Error::Contention { .. })
    }

    /// True when trying again may help: contention, a stale listing (list again), a full eventbox, or a database that
    /// is not available.
    ///
    /// False for [`Error::Unknown`]: an unnamed emit that is tried again might be there twice.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Contention { .. } | Error::Transient { .. } | Error::Stale { .. } | Error::Full { .. })
    }

    pub(crate) fn misuse(attempt: impl fmt::Display, misuse: Misuse) -> Self {
        Error::Misuse { attempt: attempt.to_string(), misuse }
    }

    pub(crate) fn contention(attempt: impl fmt::Display) -> Self {
        Error::Contention { attempt: attempt.to_string(), source: None }
    }

    pub(crate) fn setup(attempt: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Error::Setup { attempt: attempt.to_string(), problem: problem.to_string() }
    }
}

/// Reports that something is away that a processor or a reducer needs, so that no event is to blame.
///
/// Return it as the error of your code, or as the cause of one, however deep. The events stay in their box, in their
/// order, and are tried again after `retry_after`. Nothing counts towards [`PoisonPolicy`](crate::PoisonPolicy). A
/// [`Runtime`](crate::runtime::Runtime) reports it in its health.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use eventbox::{BoxError, Outage};
///
/// fn book(seats: Result<u32, std::io::Error>) -> Result<u32, BoxError> {
///     // The booking service does not answer.
///     Ok(seats.map_err(|_| Outage { retry_after: Duration::from_secs(2) })?)
/// }
/// # assert!(book(Err(std::io::ErrorKind::TimedOut.into())).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("something that the code needs is away: to be tried again after {retry_after:?}")]
pub struct Outage {
    /// Pause of the recipient.
    pub retry_after: std::time::Duration,
}

/// Reports that this version of a program does not know an event yet, so that the event is not to blame.
///
/// Return it while a newer version is being rolled out: as the error of your code, or as the cause of one. The event
/// stays first in its box, counts towards no [`PoisonPolicy`](crate::PoisonPolicy), and is tried again every few
/// seconds, by whichever process then works on its recipient.
///
/// # Examples
///
/// ```
/// use eventbox::{BoxError, UnknownEvent};
///
/// fn seats(event: &str) -> Result<u32, BoxError> {
///     match event.split_once(' ') {
///         Some(("booked", seats)) => Ok(seats.parse()?),
///         _ => Err(UnknownEvent::new(event).into()),
///     }
/// }
/// assert_eq!(seats("booked 2").unwrap(), 2);
/// assert!(seats("cancelled 2").unwrap_err().is::<UnknownEvent>());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this version of the program does not know an event yet: {what}")]
pub struct UnknownEvent {
    what: String,
}

impl UnknownEvent {
    /// Names what is not known, for a person.
    pub fn new(what: impl Into<String>) -> Self {
        UnknownEvent { what: what.into() }
    }
}

/// Misuse of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// A text that must not be empty.
    #[error("the {what} is empty")]
    Empty {
        /// Which text.
        what: &'static str,
    },
    /// A text or value over its limit.
    #[error("the {what} has {bytes} bytes, over the limit of {limit}")]
    TooLong {
        /// Which text or value.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A change of a shard's spec that cannot be made.
    #[error("shard {shard}: {problem}")]
    ShardSpec {
        /// The shard.
        shard: u8,
        /// The problem and its remedy.
        problem: String,
    },
    /// A text with a NUL character, which Postgres cannot store.
    #[error("the {what} contains a NUL character")]
    Nul {
        /// Which text.
        what: &'static str,
    },
    /// A recipient's kind with a slash, or a recipient's text without one.
    #[error("{text:?} is not a recipient: write kind/key, with no slash in the kind")]
    NotARecipient {
        /// The given value.
        text: String,
    },
    /// A text that is no [`DeadLetterId`](crate::outbox::DeadLetterId).
    #[error("{text:?} is not the id of a dead letter: write <shard>-<uuid>, as it is listed")]
    NotADeadLetterId {
        /// The given value, or its start.
        text: String,
    },
    /// A text that should be the context of a trace.
    #[error(
        "{text:?} is no traceparent: write 00-<32 digits>-<16 digits>-<2 digits>, hexadecimal in lower case, no id all \
         zeros"
    )]
    NotATraceparent {
        /// The given value, or its start.
        text: String,
    },
    /// More events in one call than it takes.
    #[error("{count} events in one call, over the limit of {limit}: make several calls")]
    TooMany {
        /// Number of events given.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A bound that is larger than bounds may be.
    #[error("the {what} of {bound} is over the limit of {limit}")]
    BoundTooLarge {
        /// Which bound.
        what: &'static str,
        /// The given value.
        bound: u32,
        /// The limit.
        limit: u32,
    },
    /// A call on something that was stopped.
    #[error("the {what} was stopped")]
    Stopped {
        /// The service that was stopped.
        what: &'static str,
    },
    /// A text that is no [`Receipt`](crate::Receipt).
    #[error("{text:?} is not a receipt")]
    NotAReceipt {
        /// Its beginning.
        text: String,
    },
    /// A timer further away than timers may be; is the unit wrong?
    #[error("the event is due in {wait:?}, over the limit of {limit:?}")]
    TooFar {
        /// Time until it is due.
        wait: std::time::Duration,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The user's code ended the transaction of its turn, or the database did because of a statement of it.
    #[error(
        "the code of the turn ended its transaction (COMMIT, ROLLBACK, or an error that ends it): return an error to \
         roll back, and use savepoints for parts"
    )]
    EndedTransaction,
    /// A statement of the user's code failed in the transaction of its turn, and the code did not return the error.
    #[error(
        "a statement failed and its error was not returned, so the transaction cannot commit: return the error, or put \
         the statement into a savepoint"
    )]
    SwallowedError,
    /// The user's code that reads outside a transaction began one and did not end it.
    #[error("the code left a transaction open on the connection that it was given: end it before returning")]
    LeftOpen,
    /// A processor's decision names an event that is not in the batch it was given.
    #[error("the decision consumes event {id}, which is not in its batch")]
    NotListed {
        /// The event.
        id: String,
    },
    /// A processor's decision names an event twice.
    #[error("the decision consumes event {id} twice")]
    ConsumedTwice {
        /// The event.
        id: String,
    },
    /// A listing of another set.
    #[error("the listing is of {listed}: list this set")]
    ForeignListing {
        /// The recipient that was listed.
        listed: String,
    },
    /// A pop that was begun in another transaction than the one it is finished in.
    #[error("the operation was begun in another transaction: finish it in its own")]
    OtherTransaction,
    /// Two pops of one transaction with the same item.
    #[error("item {id:?} was popped by two operations of this transaction")]
    PoppedTwice {
        /// The item.
        id: String,
    },
    /// The commit of a transaction in which a pop failed to finish.
    #[error("an operation of this transaction failed to finish, so it was rolled back")]
    PopNotFinished,
    /// The caller's own statements undid a pop, ended its transaction, or left it failed.
    #[error(
        "the transaction was ended, or failed, or what was popped in it was undone: return the errors of statements, \
         and use savepoints only before finish_pop"
    )]
    PopUndone,
}
