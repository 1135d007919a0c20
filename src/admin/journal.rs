//! What became of an event: the history of a recipient, and the fate of one event.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::time_of;
use super::view::count::Count;
use crate::error::Result;
use crate::eventbox::EventId;
use crate::origin::{self, Origin};
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;
pub use crate::store::JournalOutcome;
use crate::store::{Backend, FateLimits, Fault, JournalRow, OutboxKey, answered, hold};

/// Largest number of entries of one history.
pub const MAX_HISTORY: u32 = 1_000;

/// Number of events that are counted before a waiting event. There may be more.
pub const MAX_AHEAD: u32 = 10_000;

/// Number of entries of the journal, the newest of a recipient, that [`fate`] searches for a name that is no longer
/// remembered.
pub const MAX_SEARCHED: u32 = 100_000;

/// An entry of the journal: an event that left its eventbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalEntry {
    /// Id of the event.
    #[serde(serialize_with = "super::view::text::id")]
    pub id: EventId,
    /// Name of the event.
    pub name: Option<String>,
    /// Number of the turn that removed the event. An operator's repair is a turn, too.
    pub turn: i64,
    /// What became of the event. The last outcome counts: of an event that was replayed and consumed, the entry says
    /// consumed.
    pub outcome: JournalOutcome,
    /// Time of the outcome, by the database's clock.
    #[serde(serialize_with = "super::view::text::time")]
    pub at: SystemTime,
    /// Where the event came from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Lists the journal of a recipient before an event, the newest event first. Pass the last id to the next call.
///
/// # What comes back
///
/// The events that left the eventbox while the kind kept a journal, in the order of their ids, which is that of their
/// emits. Nothing for a kind without a journal: no kind has one unless a runtime
/// ([`RuntimeBuilder::journal`](crate::runtime::RuntimeBuilder::journal)) or the caller of a turn
/// ([`TurnOptions::journaled`](crate::TurnOptions::journaled)) asks for it.
///
/// # Units and limits
///
/// At most `limit` entries, and at most [`MAX_HISTORY`].
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
/// # struct Counter;
/// # impl Reducer for Counter {
/// #     type State = u64;
/// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
/// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, JournalOutcome};
/// use eventbox::{Event, Recipient, TurnOptions};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// eventbox::emit(&pool, &airport, Event::new("departed").named("UA/1545")).await?;
/// let options = TurnOptions::new(100.try_into()?).journaled();
/// eventbox::reduce_batch_with(&pool, &airport, &Counter, &options).await?;
///
/// let history = admin::history(&pool, &airport, None, 10).await?;
/// assert_eq!((history[0].name.as_deref(), history[0].turn), (Some("UA/1545"), 1));
/// assert_eq!(history[0].outcome, JournalOutcome::Consumed);
/// assert!(admin::history(&pool, &airport, Some(history[0].id), 10).await?.is_empty());
/// # Ok(()) }
/// ```
pub async fn history<B: Backend>(
    pool: &Pool<B>,
    of: &Recipient,
    before: Option<EventId>,
    limit: u32,
) -> Result<Vec<JournalEntry>> {
    let (before, limit) = (before.map_or(Uuid::max(), |before| before.0), i64::from(limit.min(MAX_HISTORY)));
    let read = answered(pool, async {
        B::list_journal(&mut *hold(pool).await?, of.shard().into(), of.as_str(), before, limit).await
    });
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list the history of {of}")))?;
    Ok(rows.into_iter().map(entry_of).collect())
}

fn entry_of(row: JournalRow) -> JournalEntry {
    JournalEntry {
        id: row.id.into(),
        name: row.name,
        turn: row.turn,
        outcome: row.outcome,
        at: time_of(row.at_us),
        origin: origin::read(row.origin),
    }
}

/// An event, by its id or by its name.
///
/// # Examples
///
/// See [`fate`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventRef {
    /// The event with this id.
    Id(EventId),
    /// The newest event of this name.
    Name(String),
}

impl From<EventId> for EventRef {
    fn from(id: EventId) -> Self {
        EventRef::Id(id)
    }
}

impl From<&str> for EventRef {
    fn from(name: &str) -> Self {
        EventRef::Name(name.to_owned())
    }
}

/// What became of an event, as [`fate`] returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fate {
    /// The event is in its eventbox.
    Waiting {
        /// Events before it in the eventbox, counted up to [`MAX_AHEAD`].
        ahead: Count,
    },
    /// The event is a timer that has not moved into its eventbox.
    Timer {
        /// Time at which it is due, by the database's clock.
        #[serde(serialize_with = "super::view::text::time")]
        due_at: SystemTime,
    },
    /// A turn consumed the event.
    Consumed {
        /// Number of the turn.
        turn: i64,
        /// Time of the turn, by the database's clock.
        #[serde(serialize_with = "super::view::text::time")]
        at: SystemTime,
    },
    /// A turn removed the event as garbage.
    Garbage {
        /// Number of the turn.
        turn: i64,
        /// Time of the turn, by the database's clock.
        #[serde(serialize_with = "super::view::text::time")]
        at: SystemTime,
    },
    /// The event is in quarantine.
    Quarantined {
        /// Reason in one word.
        code: String,
        /// Reason in words.
        reason: String,
        /// Its id among all dead letters.
        #[serde(serialize_with = "super::view::text::text")]
        dead_letter: DeadLetterId,
    },
    /// An operator deleted the event.
    Purged {
        /// Number of the turn that the repair took.
        turn: i64,
        /// Time of the repair, by the database's clock.
        #[serde(serialize_with = "super::view::text::time")]
        at: SystemTime,
    },
    /// No table has the event: it was never emitted, or it is gone and no entry of a journal says how.
    Unknown {
        /// Whether the kind keeps a journal. If so, the event left before the journal began or longer ago than it is
        /// kept, a sender cancelled its timer, a [`Set`](crate::dsset::Set) popped it, or it was lost.
        keeps_journal: bool,
    },
}

/// Returns what became of one event.
///
/// One statement looks into the eventbox, the timers, the quarantine and the journal, in one snapshot. So it finds an
/// event that moves from one of them to another meanwhile, in either direction, in exactly one of them. For a kind
/// without a journal, an event that left its eventbox is [`Fate::Unknown`].
///
/// A name is that of the event under which it is remembered, or else of the newest of the last [`MAX_SEARCHED`]
/// entries of the recipient's journal.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
/// # struct Counter;
/// # impl Reducer for Counter {
/// #     type State = u64;
/// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
/// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, Fate};
/// use eventbox::{Event, Recipient, TurnOptions};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let departed = eventbox::emit(&pool, &airport, Event::new("departed").named("UA/1545")).await?;
/// let id = departed.id().ok_or("it was added")?;
/// assert!(matches!(admin::fate(&pool, &airport, &id.into()).await?, Fate::Waiting { .. }));
///
/// let options = TurnOptions::new(100.try_into()?).journaled();
/// eventbox::reduce_batch_with(&pool, &airport, &Counter, &options).await?;
/// assert!(matches!(admin::fate(&pool, &airport, &id.into()).await?, Fate::Consumed { turn: 1, .. }));
/// assert!(matches!(admin::fate(&pool, &airport, &"UA/1545".into()).await?, Fate::Consumed { turn: 1, .. }));
/// assert_eq!(admin::fate(&pool, &airport, &"UA/1".into()).await?, Fate::Unknown { keeps_journal: true });
/// # Ok(()) }
/// ```
pub async fn fate<B: Backend>(pool: &Pool<B>, of: &Recipient, event: &EventRef) -> Result<Fate> {
    let (id, name) = match event {
        EventRef::Id(id) => (Some(id.0), None),
        EventRef::Name(name) => (None, Some(name.as_str())),
    };
    let shard = i16::from(of.shard());
    let limits = FateLimits { named: i64::from(MAX_SEARCHED), ahead: i64::from(MAX_AHEAD) + 1 };
    let read =
        answered(pool, async { B::read_fate(&mut *hold(pool).await?, shard, of.as_str(), id, name, limits).await });
    let row = read.await.map_err(|fault: Fault| fault.during(format!("find out what became of an event of {of}")))?;
    if row.is_in_box {
        return Ok(Fate::Waiting { ahead: Count::up_to(i64::from(MAX_AHEAD), row.ahead) });
    }
    if let Some(due_at_us) = row.due_at_us {
        return Ok(Fate::Timer { due_at: time_of(due_at_us) });
    }
    if let (Some(id), Some((code, reason))) = (row.id, row.verdict) {
        let dead_letter = DeadLetterId::of_key(OutboxKey { shard, id });
        return Ok(Fate::Quarantined { code, reason, dead_letter });
    }
    Ok(match row.noted {
        Some((turn, JournalOutcome::Consumed, at_us)) => Fate::Consumed { turn, at: time_of(at_us) },
        Some((turn, JournalOutcome::Garbage, at_us)) => Fate::Garbage { turn, at: time_of(at_us) },
        Some((turn, JournalOutcome::Purged, at_us)) => Fate::Purged { turn, at: time_of(at_us) },
        // It was quarantined, and is there no more.
        Some((_, JournalOutcome::Quarantined, _)) | None => Fate::Unknown { keeps_journal: row.keeps_journal },
    })
}
