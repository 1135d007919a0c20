//! The mistakes that a processor can make in its four methods.

use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;

use super::rehearsal::Rehearsal;
use super::rehearsing::{Reread, VersionsDiffer, run};
use super::resting::MAX_IDLE_TURNS;
use crate::error::{Error, Result};
use crate::eventbox::{Event, Next, Processor};
use crate::recipient::Recipient;
use crate::store::Backend;

/// Longest duration of a `load_state` that [`check_processor`] calls inside a transaction.
///
/// A `load_state` that waits for another connection of the same pool would wait for ever.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(5);

/// Largest number of attempts of [`check_processor`] while another writer changes the same recipient.
const MAX_REHEARSALS: u32 = 10;

/// A mistake of a processor. Its text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// No turn, or no turn that saves a state. So only a part could be checked.
    #[error("no state was saved, so nothing could be checked: emit events that change the state before the check")]
    NothingSaved,
    /// Different versions from `load_state` and `fetch_eversion` for the same entity, so that no turn ever commits.
    #[error("load_state and fetch_eversion return different versions of an entity that no other writer changes")]
    VersionsDiffer,
    /// A `save_state` that leaves the old version.
    #[error("save_state saved without the new version: store the eversion that it is given")]
    SaveForgetsVersion,
    /// A `fetch_eversion` that does not see the version saved in its own transaction, while `load_state` sees it.
    #[error("fetch_eversion does not return the version that was saved: read it with the connection that it is given")]
    FetchMissesVersion,
    /// A `load_state` that does not see the save of the transaction whose connection it was given.
    /// `fetch_eversion` sees it.
    #[error("load_state reads elsewhere than on its connection: it does not see what this transaction saved")]
    LoadReadsElsewhere,
    /// A state from `load_state` that differs from the state that `save_state` was given.
    #[error("load_state does not give back the state that save_state was given: something of it is not stored")]
    StateIsLost,
    /// Two different decisions on the same state and events.
    #[error("prepare_mutation is not repeatable: a second call with the same state and events gave other {what}")]
    NotRepeatable {
        /// Part of the decision that differed.
        what: &'static str,
    },
    /// A processor that still has transitions after [`MAX_IDLE_TURNS`] turns that removed no event.
    ///
    /// Such a processor commits a turn at every call.
    #[error(
        "it never rests: after {turns} turns that removed no event it still has transitions; \
         return Mutation::none when nothing is left to do"
    )]
    NeverRests {
        /// Number of turns.
        turns: usize,
    },
}

/// Finds mistakes in the methods of a [`Processor`]: runs two turns, calls its methods inside them, and rolls both
/// back.
///
/// First emit events to a recipient that make the processor save a new state. Then call the check with that recipient.
/// The check detects:
///
/// * a `save_state` that forgets the version or a part of the state,
/// * a `load_state` that reads outside its connection,
/// * a `fetch_eversion` that does not follow the version,
/// * a `prepare_mutation` that decides differently in a second call, such as the call after contention,
/// * a processor that never rests with the events that it leaves in the box,
/// * a processor that never rests without events, if it [runs without events](Processor::runs_without_events).
///
/// Nothing stays in the database. Tests that use the same database at the same time do no harm, as long as each has
/// recipients of its own.
///
/// Not for a processor that has no version because only turns write its entity, such as
/// [`ReducerAsProcessor`](crate::ReducerAsProcessor).
///
/// # What comes back
///
/// The mistakes. The list is empty when the check found none.
///
/// # Units and limits
///
/// The pool needs two connections. Otherwise a `load_state` that takes a second connection ends in the pool's own
/// timeout. A `load_state` inside the transaction has [`LOAD_DEADLINE`].
///
/// # Errors
///
/// As [`process_batch`](crate::process_batch): a processor that fails is not a violation.
///
/// # Cancel safety
///
/// Safe: both turns are rolled back in any case.
///
/// # Examples
///
/// ```no_run
/// # async fn check<P: eventbox::Processor<sqlx::Sqlite, State = i64>>(
/// #     pool: sqlx::SqlitePool, orders: P,
/// # ) -> Result<(), eventbox::BoxError> {
/// use eventbox::{Event, Recipient, testing};
///
/// let order = Recipient::new("order", "7")?;
/// eventbox::emit(&pool, &order, Event::new("a pencil")).await?;
/// assert_eq!(testing::check_processor(&pool, &order, &orders, 100.try_into()?).await?, []);
/// # Ok(()) }
/// ```
pub async fn check_processor<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    max_events: NonZeroU32,
) -> Result<Vec<Violation>>
where
    B: Backend,
    P: Processor<B>,
    P::State: PartialEq,
{
    let mut attempts = 0;
    let (first, again) = loop {
        attempts += 1;
        let may_try = attempts < MAX_REHEARSALS;
        let first = match run(pool, to, processor, max_events, true).await {
            Err(Error::Processor { source, .. }) if source.is::<VersionsDiffer>() => {
                return Ok(vec![Violation::VersionsDiffer]);
            }
            Err(error) if error.is_contention() && may_try => continue,
            outcome => outcome?,
        };
        let Some(first) = first else { return Ok(vec![Violation::NothingSaved]) };
        let again = match run(pool, to, processor, max_events, false).await {
            Err(error) if error.is_contention() && may_try => continue,
            outcome => outcome?,
        };
        // Another writer changed the entity or emitted to it, so the two turns decided on different input.
        if again.as_ref().is_some_and(|again| again.from != first.from) && may_try {
            continue;
        }
        break (first, again);
    };
    let mut violations = Vec::new();
    match (&first.reread, &first.rehearsal.next) {
        (Some(reread), Next::To(state)) => violations.extend(version_violation(reread, state)),
        _ => violations.push(Violation::NothingSaved),
    }
    let again = again.map(|seen| seen.rehearsal);
    violations.extend(difference(&first.rehearsal, again.as_ref()).map(|what| Violation::NotRepeatable { what }));
    // Another mistake, such as a version that does not move, may itself keep the processor from resting.
    if !first.comes_to_rest && violations.iter().all(|found| *found == Violation::NothingSaved) {
        violations.push(Violation::NeverRests { turns: MAX_IDLE_TURNS });
    }
    Ok(violations)
}

fn version_violation<S: PartialEq>(reread: &Reread<S>, state: &S) -> Option<Violation> {
    let fetch_follows = reread.fetched == reread.saved;
    let Some((loaded, eversion)) = &reread.loaded else { return Some(Violation::LoadReadsElsewhere) };
    match (fetch_follows, *eversion == reread.saved) {
        (true, true) => (loaded != state).then_some(Violation::StateIsLost),
        (true, false) => Some(Violation::LoadReadsElsewhere),
        (false, true) => Some(Violation::FetchMissesVersion),
        (false, false) => Some(Violation::SaveForgetsVersion),
    }
}

/// Returns the part that differs between two rehearsals of one turn. Ids and times always differ, so they are left out.
fn difference<S: PartialEq>(first: &Rehearsal<S>, again: Option<&Rehearsal<S>>) -> Option<&'static str> {
    let Some(again) = again else { return Some("transitions: none at all") };
    if first.next != again.next {
        return Some("states");
    }
    if (&first.consumed, &first.garbage) != (&again.consumed, &again.garbage) {
        return Some("events to remove");
    }
    if !first.emitted.iter().map(content_of).eq(again.emitted.iter().map(content_of)) {
        return Some("emitted events");
    }
    if !first.published.iter().map(message_of).eq(again.published.iter().map(message_of)) {
        return Some("published messages");
    }
    (first.hooks != again.hooks).then_some("hooks")
}

pub(super) fn content_of((to, event): &(Recipient, Event)) -> (&Recipient, Option<&str>, &[u8]) {
    (to, event.name(), event.value())
}

pub(super) fn message_of(message: &crate::cloudevent::CloudEvent) -> (&str, &str, Option<&str>, &[u8]) {
    (message.source(), message.event_type(), message.subject(), message.payload())
}
