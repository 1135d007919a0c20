//! Emitting: puts events into eventboxes.

pub(super) mod depth;
pub(super) mod sender;
pub(super) mod sender_groups;
mod sender_retries;
pub(super) mod wake_up;

use std::collections::HashSet;

use super::event::receipt::Receipt;
use super::event::timer::Due;
use super::event::trace;
use super::event::{Event, EventId};
use super::metrics;
use crate::error::{Error, Misuse, Result};
use crate::origin::{self, SharedOrigin};
use crate::recipient::{Recipient, check_key};
use crate::store::{Backend, Durability, EmitExecutor, EventRow, Place, in_time};

pub use crate::store::Emitted;

/// Most bytes of an event's value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Most events of one [`emit_all`].
pub const MAX_EMIT_EVENTS: usize = 10_000;

/// Most bytes of the values of one [`emit_all`] together.
pub const MAX_EMIT_BYTES: usize = 64 << 20;

/// Time for which the events of a decision wait for a name, with the transaction of their turn, in milliseconds. After
/// that the turn starts again.
const TURN_NAME_WAIT_MS: u32 = 1_000;

/// Puts one event into a recipient's eventbox.
///
/// The executor decides what commits together. `&pool` commits by itself. `&mut *tx` joins the caller's transaction,
/// and the event exists exactly if that transaction commits. On SQLite, emits on a pool that arrive while another emit
/// writes share a commit.
///
/// Exactly one committed turn of the recipient consumes the event. An event with a [due time](Event::due_in) waits as a
/// timer until then.
///
/// While another open transaction holds the event's name, an emit on a pool waits for that transaction:
/// [`NAME_WAIT`](crate::limits::NAME_WAIT) at most, and then it returns contention. At most a quarter of the pool's
/// connections wait for names at once. In a caller's transaction an emit waits for the `lock_timeout` of that
/// transaction.
///
/// [`emit_with`](crate::emit_with) also measures the eventbox, and can refuse an event when too many wait.
///
/// The returned [`Receipt`] says what became of the event. Pass it to [`status`](crate::status()) to ask again later.
///
/// # Errors
///
/// * [`Error::Misuse`] before any SQL when the event breaks a limit of [`Event`].
/// * [`Error::Unknown`] when the connection was lost and the event may exist or not. Emit it again if it is named.
/// * Contention, transient and database errors: nothing was changed. A caller's transaction may have to be rolled back.
///
/// # Cancel safety
///
/// A dropped future may or may not have emitted the event. Name the event if you mean to emit it again.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Emitted, Event, Recipient};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// let flight = Event::new("departed").named("2013-01-01/UA/1545");
/// assert_eq!(eventbox::emit(&pool, &aircraft, flight.clone()).await?, Emitted::Added);
/// assert_eq!(eventbox::emit(&pool, &aircraft, flight).await?, Emitted::Duplicate);
///
/// let mut tx = eventbox::begin(&pool).await?;
/// eventbox::emit(&mut *tx, &aircraft, Event::new("landed")).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
pub async fn emit<'e, B, E>(executor: E, to: &Recipient, event: Event) -> Result<Receipt>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    check(to, &event)?;
    let (current, origin) = (trace::current(), origin::current());
    let id = EventId::mint();
    let row = row_of(to, &event, id, current.as_deref(), origin.as_ref());
    let attempt = || format!("emit to {to}");
    let pool = executor.pool();
    let is_committed = pool.is_some();
    if event.name().is_none() && event.due().is_none() {
        let inserted = match pool {
            Some(pool) => B::insert_on_pool(&pool, row).await,
            None => B::insert_event(executor, row).await,
        };
        inserted.map_err(|fault| fault.during_commit(attempt()))?;
        metrics::emitted(to, Emitted::Added);
        wake_up::wake(&std::iter::once(to), is_committed);
        return Ok(Receipt::new(to.clone(), Emitted::Added, id, None));
    }
    let noted = match executor.place() {
        Place::Pool(pool) => B::insert_all_on_pool(pool, &[row], Durability::Immediate).await,
        Place::Connection(conn) => B::insert_events(conn, &[row]).await,
    };
    let noted = noted.map_err(|fault| fault.during_commit(attempt()))?;
    let answer = noted.first().copied().unwrap_or(Emitted::Duplicate);
    metrics::emitted(to, answer);
    wake_up::wake(&std::iter::once(to), is_committed);
    Ok(Receipt::new(to.clone(), answer, id, event.name()))
}

/// Puts many events into the eventboxes of many recipients, in one statement: all of them or none.
///
/// Use it instead of a loop: it takes one round trip and one commit. The results are in the order of `events`. Events
/// of one recipient are listed in their order here. Of two events with one name for one recipient, the first counts and
/// the others are duplicates.
///
/// # Units and limits
///
/// At most [`MAX_EMIT_EVENTS`] events and [`MAX_EMIT_BYTES`] of values. An empty slice is allowed and runs no SQL.
///
/// # Errors
///
/// As [`emit`]. The error of a bad event names its recipient, and no event is emitted.
///
/// # Cancel safety
///
/// As [`emit`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Emitted, Event, Recipient};
///
/// let events = [
///     (Recipient::new("airport", "JFK")?, Event::new("departed").named("UA/1545")),
///     (Recipient::new("airport", "EWR")?, Event::new("departed")),
///     (Recipient::new("airport", "JFK")?, Event::new("departed").named("UA/1545")),
/// ];
/// let answers = eventbox::emit_all(&pool, &events).await?;
/// assert_eq!(answers, [Emitted::Added, Emitted::Added, Emitted::Duplicate]);
/// # Ok(()) }
/// ```
pub async fn emit_all<'e, B, E>(executor: E, events: &[(Recipient, Event)]) -> Result<Vec<Emitted>>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    if events.is_empty() {
        return Ok(Vec::new());
    }
    check_all(events)?;
    let (current, origin) = (trace::current(), origin::current());
    let (positions, rows) = rows_of(events, current.as_deref(), origin.as_ref());
    let attempt = || format!("emit {} events to {} recipients", events.len(), recipients(events));
    let place = executor.place();
    let is_committed = matches!(place, Place::Pool(_));
    let noted = match place {
        Place::Pool(pool) => B::insert_all_on_pool(pool, &rows, Durability::Immediate).await,
        Place::Connection(conn) => B::insert_events(conn, &rows).await,
    };
    let noted = noted.map_err(|fault| fault.during_commit(attempt()))?;
    Ok(answers_of(events, positions, noted, is_committed))
}

/// Does what [`emit_all`] does on a pool, for code that is generic over the engine.
#[cfg(feature = "peer")]
pub(crate) async fn emit_all_on<B: Backend>(
    pool: &sqlx::Pool<B>,
    events: &[(Recipient, Event)],
    durability: Durability,
) -> Result<Vec<Emitted>> {
    check_all(events)?;
    let current = trace::current();
    let (positions, rows) = rows_of(events, current.as_deref(), None);
    let attempt = || format!("emit {} events to {} recipients", events.len(), recipients(events));
    let noted = B::insert_all_on_pool(pool, &rows, durability).await;
    let noted = noted.map_err(|fault| fault.during_commit(attempt()))?;
    Ok(answers_of(events, positions, noted, true))
}

/// Does what [`emit_all`] does in a transaction, for code that is generic over the engine.
pub(crate) async fn emit_all_in<B: Backend>(
    tx: &mut B::Connection,
    events: &[(Recipient, Event)],
) -> Result<Vec<Emitted>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    check_all(events)?;
    if events.iter().any(|(_, event)| event.name().is_some()) {
        let during = |fault: crate::store::Fault| fault.during(format!("emit {} events", events.len()));
        B::limit_lock_wait(tx, TURN_NAME_WAIT_MS).await.map_err(during)?;
    }
    emit_slice_in::<B>(tx, events).await
}

/// Does the same as [`emit_all_in`] for events that were checked already. They may come from the decisions of several
/// recipients.
pub(super) async fn emit_slice_in<B: Backend>(
    tx: &mut B::Connection,
    events: &[(Recipient, Event)],
) -> Result<Vec<Emitted>> {
    let (current, origin) = (trace::current(), origin::current());
    let (positions, rows) = rows_of(events, current.as_deref(), origin.as_ref());
    let attempt = || format!("emit {} events to {} recipients", events.len(), recipients(events));
    let noted = in_time::<B, _>(B::insert_events(tx, &rows)).await.map_err(|fault| fault.during(attempt()))?;
    Ok(answers_of(events, positions, noted, false))
}

/// Returns the rows to insert, and the index of each in `events`. Of two events with one name for one recipient, only
/// the first gets a row.
pub(super) fn rows_of<'a>(
    events: &'a [(Recipient, Event)],
    trace: Option<&'a str>,
    origin: Option<&'a SharedOrigin>,
) -> (Vec<usize>, Vec<EventRow<'a>>) {
    // Ids are minted in the caller's order, which is the order of listing. Rows are sent in key order, which is the
    // order of locking.
    let mut rows: Vec<(usize, EventRow<'_>)> =
        events.iter().map(|(to, event)| row_of(to, event, EventId::mint(), trace, origin)).enumerate().collect();
    rows.sort_by(|(_, a), (_, b)| (a.shard, a.recipient, a.name, a.id).cmp(&(b.shard, b.recipient, b.name, b.id)));
    let mut names = HashSet::new();
    rows.retain(|(_, row)| row.name.is_none_or(|name| names.insert((row.recipient, name))));
    rows.into_iter().unzip()
}

/// Returns the results in the order of `events`, counts them, and sends a wake-up for each recipient.
pub(super) fn answers_of(
    events: &[(Recipient, Event)],
    positions: Vec<usize>,
    noted: Vec<Emitted>,
    are_committed: bool,
) -> Vec<Emitted> {
    let mut answers = vec![Emitted::Duplicate; events.len()];
    for (position, noted) in positions.into_iter().zip(noted) {
        if let Some(answer) = answers.get_mut(position) {
            *answer = noted;
        }
    }
    for ((to, _), answer) in events.iter().zip(&answers) {
        metrics::emitted(to, *answer);
    }
    wake_up::wake(&events.iter().map(|(to, _)| to), are_committed);
    answers
}

fn recipients(events: &[(Recipient, Event)]) -> usize {
    events.iter().map(|(to, _)| to).collect::<HashSet<_>>().len()
}

/// Makes the row of an event. `trace` and `origin` are used for events that have none of their own.
pub(super) fn row_of<'a>(
    to: &'a Recipient,
    event: &'a Event,
    id: EventId,
    trace: Option<&'a str>,
    origin: Option<&'a SharedOrigin>,
) -> EventRow<'a> {
    EventRow {
        shard: to.shard().into(),
        recipient: to.as_str(),
        id: id.0,
        name: event.name(),
        traceparent: event.traceparent().or(trace),
        origin: event.shared_origin().or(origin).map(SharedOrigin::text),
        value: event.value(),
        due: event.due().map(Due::row),
    }
}

/// Checks every limit of one [`emit_all`], without any SQL.
pub(crate) fn check_all(events: &[(Recipient, Event)]) -> Result<()> {
    let attempt = || format!("emit {} events", events.len());
    if events.len() > MAX_EMIT_EVENTS {
        let misuse = Misuse::TooMany { count: events.len(), limit: MAX_EMIT_EVENTS };
        return Err(Error::misuse(attempt(), misuse));
    }
    events.iter().try_for_each(|(to, event)| check(to, event))?;
    let bytes = events.iter().map(|(_, event)| event.value().len()).sum();
    if bytes > MAX_EMIT_BYTES {
        let misuse = Misuse::TooLong { what: "sum of the values", bytes, limit: MAX_EMIT_BYTES };
        return Err(Error::misuse(attempt(), misuse));
    }
    Ok(())
}

pub(crate) fn check(to: &Recipient, event: &Event) -> Result<()> {
    let misuse = |misuse| Error::misuse(format!("emit to {to}"), misuse);
    if let Some(name) = event.name() {
        check_key("event's name", name).map_err(misuse)?;
    }
    if let Some(due) = event.due() {
        due.check().map_err(misuse)?;
    }
    if let Some(traceparent) = event.traceparent() {
        trace::check(traceparent).map_err(misuse)?;
    }
    let bytes = event.value().len();
    if bytes > MAX_VALUE_BYTES {
        return Err(misuse(Misuse::TooLong { what: "event's value", bytes, limit: MAX_VALUE_BYTES }));
    }
    Ok(())
}
