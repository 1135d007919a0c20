//! Checks a mutation against its batch.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::clock;
use crate::cloudevent::CloudEvent;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::transition::{Mutation, PostProcess, SideEffect, Transition};
use crate::eventbox::emit::{check_all, emit_all_in};
use crate::eventbox::event::{Event, EventId, LATE_COMMIT};
use crate::origin::SharedOrigin;
use crate::outbox::MAX_PUBLISHED_BYTES;
use crate::recipient::Recipient;
use crate::store::Backend;

/// One step of the transaction.
pub(super) struct Step<B: Backend, S> {
    pub(super) consumed: Vec<Uuid>,
    pub(super) side_effect: Option<SideEffect<B>>,
    pub(super) published: Vec<CloudEvent>,
    pub(super) target: Option<S>,
    pub(super) post_process: Option<PostProcess>,
    pub(super) independent: bool,
    /// Origin of what the step emits and publishes.
    pub(super) origin: Option<SharedOrigin>,
}

/// Checked steps and garbage of a turn.
pub(super) struct Decision<B: Backend, S> {
    pub(super) steps: Vec<Step<B, S>>,
    pub(super) garbage: Vec<Uuid>,
    /// Merged origin of all events that are removed.
    pub(super) origin: Option<SharedOrigin>,
}

impl<B: Backend, S> Decision<B, S> {
    /// Drops transitions that do nothing. Refuses an event that was not listed or is removed twice.
    pub(super) fn check(to: &Recipient, listed: &[Event], mutation: Mutation<B, S>) -> Result<Self> {
        let mut batch = Batch::new(to, listed);
        let kept = mutation.transitions.into_iter().filter(|transition| !transition.is_no_op());
        let steps = kept.map(|transition| batch.step(transition)).collect::<Result<_>>()?;
        let garbage = batch.remove(mutation.garbage)?;
        let mut decision = Decision { steps, garbage, origin: None };
        decision.note_origins(&batch);
        Ok(decision)
    }

    /// Returns all events that the turn may remove.
    pub(super) fn removed(&self) -> impl Iterator<Item = &Uuid> {
        self.steps.iter().flat_map(|step| &step.consumed).chain(&self.garbage)
    }

    /// Notes the origins: of a step, that of the events that it consumes and of the garbage; of a step that consumes
    /// nothing, that of all events.
    fn note_origins(&mut self, batch: &Batch<'_>) {
        if batch.origins.is_empty() {
            return;
        }
        self.origin = batch.origin_of(self.removed());
        for step in &mut self.steps {
            step.origin = match step.consumed.is_empty() {
                true => self.origin.clone(),
                false => batch.origin_of(step.consumed.iter().chain(&self.garbage)),
            };
        }
    }

    /// Returns the number of events that are removed in one statement, before the first step.
    pub(super) fn removed_together(&self) -> usize {
        let together = self.steps.iter().filter(|step| !step.independent);
        together.map(|step| step.consumed.len()).sum::<usize>() + self.garbage.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.garbage.is_empty()
    }
}

/// Makes the side effect that emits all events in one statement; `None` without events. Checks the limits first.
pub(crate) fn emit_effect<B: Backend>(events: Vec<(Recipient, Event)>) -> Result<Option<SideEffect<B>>> {
    if events.is_empty() {
        return Ok(None);
    }
    check_all(&events)?;
    Ok(Some(SideEffect::new(move |tx| {
        Box::pin(async move {
            emit_all_in::<B>(tx, &events).await?;
            Ok(())
        })
    })))
}

/// Returns the first and last event if the decision removes every listed event and the newest is older than
/// [`LATE_COMMIT`].
///
/// Deleting a range costs half as much as deleting by ids. The turn proves that all listed events are still there, and
/// the count proves that the range holds no others.
pub(crate) fn whole_range(listed: &[Event], removed: usize) -> Option<(EventId, EventId)> {
    let (first, last) = (listed.first()?.id(), listed.last()?.id());
    let is_settled = clock::now().duration_since(last.emitted_at()).is_ok_and(|age| age >= LATE_COMMIT);
    (removed == listed.len() && is_settled).then_some((first, last))
}

/// Listed events, and those that a decision has removed so far.
pub(crate) struct Batch<'a> {
    to: &'a Recipient,
    listed: HashSet<EventId>,
    removed: HashSet<EventId>,
    /// Origins of the listed events that have one.
    origins: HashMap<Uuid, SharedOrigin>,
    /// Number of bytes of the messages so far.
    published: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(to: &'a Recipient, listed: &[Event]) -> Self {
        let origin = |event: &Event| Some((event.id().0, event.shared_origin()?.clone()));
        Batch {
            to,
            listed: listed.iter().map(Event::id).collect(),
            removed: HashSet::new(),
            origins: listed.iter().filter_map(origin).collect(),
            published: 0,
        }
    }

    /// Returns the merged origin of events.
    pub(crate) fn origin_of<'i>(&self, ids: impl Iterator<Item = &'i Uuid>) -> Option<SharedOrigin> {
        if self.origins.is_empty() {
            return None;
        }
        SharedOrigin::merged(ids.filter_map(|id| self.origins.get(id)))
    }

    fn step<B: Backend, S>(&mut self, transition: Transition<B, S>) -> Result<Step<B, S>> {
        Ok(Step {
            consumed: self.remove(transition.consumed)?,
            side_effect: SideEffect::chain([transition.side_effect, emit_effect(transition.emitted)?]),
            published: self.publish(transition.published)?,
            target: transition.target,
            post_process: transition.post_process,
            independent: transition.independent,
            origin: None,
        })
    }

    /// Returns the messages, unless all messages of the decision are over [`MAX_PUBLISHED_BYTES`].
    pub(crate) fn publish(&mut self, messages: Vec<CloudEvent>) -> Result<Vec<CloudEvent>> {
        self.published += messages.iter().map(CloudEvent::encoded_len).sum::<usize>();
        if self.published <= MAX_PUBLISHED_BYTES {
            return Ok(messages);
        }
        let misuse = Misuse::TooLong { what: "sum of the messages", bytes: self.published, limit: MAX_PUBLISHED_BYTES };
        Err(Error::misuse(format!("apply the decision for {}", self.to), misuse))
    }

    /// Returns the ids to remove. Each must be listed and not removed before.
    pub(crate) fn remove(&mut self, ids: Vec<EventId>) -> Result<Vec<Uuid>> {
        let misuse = |misuse| Error::misuse(format!("apply the decision for {}", self.to), misuse);
        let mut removed = Vec::with_capacity(ids.len());
        for id in ids {
            if !self.listed.contains(&id) {
                return Err(misuse(Misuse::NotListed { id: id.to_string() }));
            }
            if !self.removed.insert(id) {
                return Err(misuse(Misuse::ConsumedTwice { id: id.to_string() }));
            }
            removed.push(id.0);
        }
        Ok(removed)
    }
}
