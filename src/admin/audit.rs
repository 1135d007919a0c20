//! Proves that no event was lost and none has two fates.

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::eventbox::EventId;
use crate::recipient::Recipient;
use crate::store::{AuditFrom, Backend, EventKey, Fault, JournalOutcome, Places, answered, hold};

/// Largest number of unknown events, and of events in two places, that an audit names. It counts all of them.
pub const MAX_NAMED: usize = 100;

/// Number of events of one statement.
const SLICE: usize = 1_000;

/// A place that has an event, or an end that the journal notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// In its eventbox.
    Waiting,
    /// A timer that has not moved into its eventbox.
    Timer,
    /// In quarantine.
    Quarantined,
    /// In the journal: a turn consumed it.
    Consumed,
    /// In the journal: a turn removed it as garbage.
    Garbage,
    /// In the journal: an operator deleted it.
    Purged,
}

/// An event that an audit names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditedEvent {
    /// Recipient of the event.
    #[serde(serialize_with = "super::view::text::text")]
    pub recipient: Recipient,
    /// Id of the event.
    #[serde(serialize_with = "super::view::text::id")]
    pub id: EventId,
    /// Where it was found: nowhere, or in several places.
    pub places: Vec<Place>,
}

/// Result of [`audit`] and of [`audit_kind`]: the number of events with each fate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Audit {
    /// Events in their eventboxes.
    pub waiting: u64,
    /// Timers that have not moved into their eventboxes.
    pub timers: u64,
    /// Events in quarantine.
    pub quarantined: u64,
    /// Events that turns consumed.
    pub consumed: u64,
    /// Events that turns removed as garbage.
    pub garbage: u64,
    /// Events that operators deleted.
    pub purged: u64,
    /// Events that are nowhere, and of which no journal says how they ended.
    pub unknown: u64,
    /// Events that are in two places, or are still there although the journal says how they ended.
    pub twice: u64,
    /// The first [`MAX_NAMED`] of the unknown events.
    pub unknown_events: Vec<AuditedEvent>,
    /// The first [`MAX_NAMED`] of the events in two places.
    pub twice_events: Vec<AuditedEvent>,
}

impl Audit {
    /// Returns whether every event has exactly one fate.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.unknown == 0 && self.twice == 0
    }

    /// Returns the number of audited events.
    #[must_use]
    pub fn events(&self) -> u64 {
        let ended = self.consumed + self.garbage + self.purged;
        self.waiting + self.timers + self.quarantined + ended + self.unknown + self.twice
    }

    /// Counts an event. `event` names it, and returns `None` for a recipient that only a foreign statement can have
    /// written.
    fn add(&mut self, found: Places, event: impl FnOnce() -> Option<(Recipient, EventId)>) {
        let ended = match found.noted {
            Some(JournalOutcome::Consumed) => Some(Place::Consumed),
            Some(JournalOutcome::Garbage) => Some(Place::Garbage),
            Some(JournalOutcome::Purged) => Some(Place::Purged),
            // An event in quarantine is there, or came back to its eventbox.
            Some(JournalOutcome::Quarantined) | None => None,
        };
        let is_there = [
            (found.is_in_box, Place::Waiting),
            (found.is_timer, Place::Timer),
            (found.is_quarantined, Place::Quarantined),
        ];
        let there = is_there.into_iter().filter(|(is_there, _)| *is_there).map(|(_, place)| place);
        let places: Vec<Place> = there.chain(ended).collect();
        let named = match places.as_slice() {
            [place] => {
                match place {
                    Place::Waiting => self.waiting += 1,
                    Place::Timer => self.timers += 1,
                    Place::Quarantined => self.quarantined += 1,
                    Place::Consumed => self.consumed += 1,
                    Place::Garbage => self.garbage += 1,
                    Place::Purged => self.purged += 1,
                }
                return;
            }
            [] => {
                self.unknown += 1;
                &mut self.unknown_events
            }
            _ => {
                self.twice += 1;
                &mut self.twice_events
            }
        };
        if named.len() < MAX_NAMED
            && let Some((recipient, id)) = event()
        {
            named.push(AuditedEvent { recipient, id, places });
        }
    }
}

/// Checks that each of these emitted events has exactly one fate: it is in its eventbox, a timer, in quarantine, or in
/// the journal as consumed, garbage or purged.
///
/// Use it in a test, or with the sender's own list, to prove that nothing was lost and nothing happened twice. Give
/// each event once. The kinds must have kept a journal since the first of the emits, and for longer than the time since
/// then. Timers that their senders cancelled and items that a [`Set`](crate::dsset::Set) popped have no entry in a
/// journal: they are unknown.
///
/// The events may be processed meanwhile: a statement looks at a thousand of them in one snapshot, in which an event
/// that moves is in one place.
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
/// use eventbox::{Event, Recipient, TurnOptions, admin};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let mut emitted = Vec::new();
/// for value in ["departed", "landed"] {
///     let receipt = eventbox::emit(&pool, &airport, Event::new(value)).await?;
///     emitted.extend(receipt.id().map(|id| (airport.clone(), id)));
///     let options = TurnOptions::new(100.try_into()?).journaled();
///     eventbox::reduce_batch_with(&pool, &airport, &Counter, &options).await?;
/// }
/// let audit = admin::audit(&pool, emitted).await?;
/// assert!(audit.is_conserved());
/// assert_eq!((audit.events(), audit.consumed), (2, 2));
/// # Ok(()) }
/// ```
pub async fn audit<B: Backend>(
    pool: &Pool<B>,
    emitted: impl IntoIterator<Item = (Recipient, EventId)>,
) -> Result<Audit> {
    let mut audit = Audit::default();
    let mut emitted = emitted.into_iter();
    loop {
        let slice: Vec<(Recipient, EventId)> = emitted.by_ref().take(SLICE).collect();
        if slice.is_empty() {
            return Ok(audit);
        }
        let keys: Vec<_> = slice
            .iter()
            .map(|(of, id)| EventKey { shard: of.shard().into(), recipient: of.as_str(), id: id.0 })
            .collect();
        let read = answered(pool, async { B::locate_events(&mut *hold(pool).await?, &keys).await });
        let found = read.await.map_err(|fault: Fault| fault.during(format!("audit {} events", keys.len())))?;
        for (event, places) in slice.iter().zip(found) {
            audit.add(places, || Some(event.clone()));
        }
    }
}

/// Checks that each event of a kind has exactly one fate: those that wait, those in quarantine, and those in the kind's
/// journal.
///
/// It finds an event that was quarantined and is gone, and an event that is there although its journal says how it
/// ended. It has no list of what was emitted, so it does not notice an event that no table has. [`audit`] does.
///
/// The walk follows the keys of the events. An event keeps its key when it moves, so the walk meets it at most once.
/// It reads all events of the kind and its whole journal, a thousand rows at a time.
///
/// # Errors
///
/// [`Error::Misuse`] before any SQL when `kind` is not a valid kind. Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient, admin};
///
/// eventbox::emit(&pool, &Recipient::new("airport", "JFK")?, Event::new("departed")).await?;
/// let audit = admin::audit_kind(&pool, "airport").await?;
/// assert_eq!((audit.is_conserved(), audit.waiting), (true, 1));
/// # Ok(()) }
/// ```
pub async fn audit_kind<B: Backend>(pool: &Pool<B>, kind: &str) -> Result<Audit> {
    let attempt = || format!("audit the kind {kind}");
    match Recipient::new(kind, "key") {
        Ok(_) => {}
        Err(Error::Misuse { misuse, .. }) => return Err(Error::misuse(attempt(), misuse)),
        Err(error) => return Err(error),
    }
    let during = |fault: Fault| fault.during(attempt());
    // `0` is the character behind the slash.
    let (first, behind) = (format!("{kind}/"), format!("{kind}0"));
    let read = answered(pool, async { B::list_audited_shards(&mut *hold(pool).await?, &first, &behind).await });
    let shards = read.await.map_err(during)?;
    let limit = i64::try_from(SLICE).unwrap_or(i64::MAX);
    let mut audit = Audit::default();
    for shard in shards {
        let mut after = (first.clone(), Uuid::nil());
        loop {
            let from = AuditFrom { shard, behind: &behind, after: (&after.0, after.1), limit };
            let read = answered(pool, async { B::list_audited(&mut *hold(pool).await?, from).await });
            let rows = read.await.map_err(during)?;
            for row in &rows {
                audit.add(row.places, || Some((row.recipient.parse().ok()?, row.id.into())));
            }
            match rows.into_iter().next_back() {
                Some(last) => after = (last.recipient, last.id),
                None => break,
            }
        }
    }
    Ok(audit)
}
