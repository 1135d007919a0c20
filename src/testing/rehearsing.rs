//! A processor around the user's processor.
//!
//! It lets a real turn run to its last step and notes the effects. Then it fails, so that the turn is rolled back.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Pool;
use tokio::time::timeout;
use uuid::Uuid;

use super::conformance::LOAD_DEADLINE;
use super::rehearsal::Rehearsal;
use super::resting::comes_to_rest;
use crate::clock::noting;
use crate::cloudevent::CloudEvent;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::{EVersion, Event, EventId, Mutation, Next, Processor, Transition, process_batch};
use crate::recipient::Recipient;
use crate::store::Backend;

/// The effects and the input of a rehearsed turn.
pub(super) struct Seen<S> {
    pub(super) rehearsal: Rehearsal<Arc<S>>,
    pub(super) reread: Option<Reread<S>>,
    /// Version and events that the turn decided on.
    pub(super) from: (Option<EVersion>, Vec<EventId>),
    /// Whether the processor has no more transitions after some turns with the events that are left. Always true
    /// without `reread`.
    pub(super) comes_to_rest: bool,
}

/// Results of the processor's methods after the save, inside the same transaction.
pub(super) struct Reread<S> {
    pub(super) saved: EVersion,
    pub(super) fetched: EVersion,
    /// `None` when the load did not return within its deadline.
    pub(super) loaded: Option<(S, EVersion)>,
}

/// Runs a turn and rolls it back. Returns `None` when there is nothing to do.
///
/// With `reread` it calls the methods that read once more after the save.
pub(super) async fn run<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    max_events: NonZeroU32,
    reread: bool,
) -> Result<Option<Seen<P::State>>>
where
    B: Backend,
    P: Processor<B>,
{
    let made = Arc::default();
    let rehearsing = Rehearsing { processor, reread, made: Arc::clone(&made), notes: Mutex::new(Notes::default()) };
    let done = noting(made, process_batch(pool, to, &rehearsing, max_events)).await;
    let notes = rehearsing.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
    match done {
        Ok(_) => Ok(None),
        Err(error) if error.is_contention() && notes.versions_differ => {
            Err(Error::Processor { attempt: format!("rehearse a turn of {to}"), source: VersionsDiffer.into() })
        }
        Err(Error::Processor { source, .. }) if source.is::<RolledBack>() => Ok(notes.seen),
        Err(error) => Err(error),
    }
}

/// The failure by which a rehearsal ends.
#[derive(Debug, thiserror::Error)]
#[error("the rehearsal is over")]
struct RolledBack;

/// A fetched version that differs from the loaded version in one transaction, so that no other writer is the cause.
#[derive(Debug, thiserror::Error)]
#[error("load_state and fetch_eversion return different versions")]
pub(super) struct VersionsDiffer;

struct Rehearsing<'a, P, S> {
    processor: &'a P,
    reread: bool,
    /// Ids that the turn made. Other writers insert into the same tables in the meantime, so a new row need not be the
    /// turn's.
    made: Arc<Mutex<HashSet<Uuid>>>,
    notes: Mutex<Notes<S>>,
}

/// Notes of the current attempt.
struct Notes<S> {
    consumed: Vec<EventId>,
    garbage: Vec<EventId>,
    hooks: usize,
    loaded: Option<EVersion>,
    versions_differ: bool,
    events: Vec<Event>,
    seen: Option<Seen<S>>,
}

impl<S> Default for Notes<S> {
    fn default() -> Self {
        Notes {
            consumed: Vec::new(),
            garbage: Vec::new(),
            hooks: 0,
            loaded: None,
            versions_differ: false,
            events: Vec::new(),
            seen: None,
        }
    }
}

/// The state of a rehearsal.
enum Stage<S> {
    Loaded(S),
    Target(Arc<S>),
    /// No new state, although the turn must reach its last step.
    Unchanged,
}

impl<P, S> Rehearsing<'_, P, S> {
    fn note<T>(&self, note: impl FnOnce(&mut Notes<S>) -> T) -> T {
        note(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B, P> Processor<B> for Rehearsing<'_, P, P::State>
where
    B: Backend,
    P: Processor<B>,
{
    type State = Stage<P::State>;

    fn runs_without_events(&self) -> bool {
        self.processor.runs_without_events()
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(Self::State, EVersion), BoxError> {
        let (state, eversion) = self.processor.load_state(conn, to).await?;
        self.note(|notes| *notes = Notes { loaded: Some(eversion), ..Notes::default() });
        Ok((Stage::Loaded(state), eversion))
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        state: &Self::State,
    ) -> Result<Mutation<B, Self::State>, BoxError> {
        let Stage::Loaded(state) = state else { return Err("a rehearsal decides on a loaded state".into()) };
        let mut mutation = self.processor.prepare_mutation(to, events, state).await?;
        mutation.transitions.retain(|transition| !transition.is_no_op());
        if mutation.transitions.is_empty() && mutation.garbage.is_empty() {
            return Ok(Mutation::none());
        }
        self.note(|notes| {
            notes.consumed = mutation.transitions.iter().flat_map(|transition| transition.consumed.clone()).collect();
            notes.garbage.clone_from(&mutation.garbage);
            notes.hooks = mutation.transitions.iter().filter(|transition| transition.post_process.is_some()).count();
            notes.events = events.to_vec();
        });
        // A first transition with a state makes the turn reach its last step in any case. A state of the processor
        // replaces it.
        let transitions = mutation
            .transitions
            .into_iter()
            .map(|transition| transition.map_state(|state| Stage::Target(Arc::new(state))));
        let all = transitions.fold(Mutation::from(Transition::to(Stage::Unchanged)), Mutation::then);
        Ok(all.garbage(&mutation.garbage))
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        let eversion = self.processor.fetch_eversion(tx, to).await?;
        let loaded = self.note(|notes| notes.loaded);
        if loaded.is_some_and(|loaded| loaded != eversion) {
            // Another writer may have changed the entity since the load. A load now is as new as the fetched version.
            let again = timeout(LOAD_DEADLINE, self.processor.load_state(tx, to)).await;
            let differ = !matches!(again, Ok(Ok((_, now))) if now == eversion);
            self.note(|notes| notes.versions_differ = differ);
        }
        Ok(eversion)
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &Self::State,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        let mut reread = None;
        let next = match state {
            Stage::Target(target) => {
                self.processor.save_state(tx, to, target, eversion).await?;
                if self.reread {
                    reread = Some(self.read_again(tx, to, eversion).await?);
                }
                Next::To(Arc::clone(target))
            }
            Stage::Loaded(_) | Stage::Unchanged => Next::Stay,
        };
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left: HashSet<Uuid> = B::all_ids(tx).await.map_err(|fault| fault.0)?.into_iter().collect();
        let emitted = emitted::<B>(tx, &made).await?;
        let published = published::<B>(tx, &made).await?;
        let events = self.note(|notes| std::mem::take(&mut notes.events));
        let from = events.iter().map(Event::id).collect();
        let staying = events.into_iter().filter(|event| left.contains(event.id().as_uuid())).collect();
        // The check of rest comes last, because its turns change the rows that were read before.
        let comes_to_rest = !self.reread || comes_to_rest(self.processor, tx, to, staying).await;
        self.note(|notes| {
            // The events of an independent transition that failed are still there.
            notes.consumed.retain(|id| !left.contains(id.as_uuid()));
            let rehearsal = Rehearsal {
                next,
                consumed: std::mem::take(&mut notes.consumed),
                garbage: std::mem::take(&mut notes.garbage),
                emitted,
                published,
                hooks: notes.hooks,
            };
            notes.seen = Some(Seen { rehearsal, reread, from: (notes.loaded, from), comes_to_rest });
        });
        Err(RolledBack.into())
    }
}

impl<P, S> Rehearsing<'_, P, S> {
    async fn read_again<B>(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        saved: EVersion,
    ) -> Result<Reread<S>, BoxError>
    where
        B: Backend,
        P: Processor<B, State = S>,
    {
        let fetched = self.processor.fetch_eversion(tx, to).await?;
        let loaded = match timeout(LOAD_DEADLINE, self.processor.load_state(tx, to)).await {
            Ok(loaded) => Some(loaded?),
            Err(_) => None,
        };
        Ok(Reread { saved, fetched, loaded })
    }
}

async fn emitted<B: Backend>(
    tx: &mut B::Connection,
    made: &HashSet<Uuid>,
) -> Result<Vec<(Recipient, Event)>, BoxError> {
    let rows = B::all_events(tx).await.map_err(|fault| fault.0)?.into_iter();
    let timers = B::all_timers(tx).await.map_err(|fault| fault.0)?.into_iter();
    let all = rows.map(|(to, row)| (to, Event::listed(row))).chain(timers.map(|(to, row)| (to, Event::timed(row))));
    let mut new: Vec<_> = all.filter(|(_, event)| made.contains(event.id().as_uuid())).collect();
    new.sort_by_key(|(_, event)| event.id());
    new.into_iter().map(|(to, event)| Ok((to.parse()?, event))).collect()
}

async fn published<B: Backend>(tx: &mut B::Connection, made: &HashSet<Uuid>) -> Result<Vec<CloudEvent>, BoxError> {
    let rows = B::all_messages(tx).await.map_err(|fault| fault.0)?;
    let new = rows.into_iter().filter(|(id, _)| made.contains(id));
    new.map(|(_, payload)| Ok(CloudEvent::decode(&payload)?)).collect()
}
