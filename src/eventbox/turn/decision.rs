//! Checks a mutation against its batch.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::clock;
use crate::cloudevent::{CloudEvent, turn_key};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::erased::AnyState;
use crate::eventbox::decide::transition::{Mutation, PostProcess, SideEffect, Transition};
use crate::eventbox::emit::{check_all, emit_all_in};
use crate::eventbox::event::{Event, EventId, LATE_COMMIT};
use crate::origin::SharedOrigin;
use crate::outbox::MAX_PUBLISHED_BYTES;
use crate::recipient::Recipient;
use crate::store::Backend;

/// One step of the transaction.
pub(crate) struct Step<B: Backend> {
    pub(crate) consumed: Vec<Uuid>,
    pub(super) side_effect: Option<SideEffect<B>>,
    /// Events that are emitted after the side effect. They are within the limits.
    pub(super) emitted: Vec<(Recipient, Event)>,
    pub(crate) published: Vec<CloudEvent>,
    pub(super) target: Option<AnyState>,
    pub(super) post_process: Option<PostProcess>,
    pub(crate) independent: bool,
    /// Origin of what the step emits and publishes.
    pub(super) origin: Option<SharedOrigin>,
}

/// Checked steps and garbage of a turn.
pub(crate) struct Decision<B: Backend> {
    pub(crate) steps: Vec<Step<B>>,
    pub(crate) garbage: Vec<Uuid>,
    /// Merged origin of all events that are removed.
    pub(crate) origin: Option<SharedOrigin>,
}

impl<B: Backend> Step<B> {
    /// Returns whether code of the user runs in the transaction.
    pub(crate) fn has_effect(&self) -> bool {
        self.side_effect.is_some()
    }

    /// Returns whether events may be emitted while it is taken: by its effect, or because it is independent.
    pub(super) fn may_emit_in_place(&self) -> bool {
        self.has_effect() || (self.independent && !self.emitted.is_empty())
    }

    /// Returns the bytes of its messages and emitted events.
    #[cfg(feature = "runtime")]
    pub(crate) fn bytes(&self) -> usize {
        let emitted = self.emitted.iter().map(|(_, event)| event.value().len());
        self.published.iter().map(CloudEvent::encoded_len).chain(emitted).sum()
    }
}

impl<B: Backend> Decision<B> {
    /// Drops transitions that do nothing. Refuses an event that was not listed or is removed twice.
    pub(crate) fn check(to: &Recipient, listed: &[Event], mutation: Mutation<B, AnyState>) -> Result<Self> {
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

    /// Returns the events that are removed in one statement, before the first step: those that are consumed, and then
    /// the garbage.
    pub(crate) fn removed_together(&self) -> Vec<Uuid> {
        let together = self.steps.iter().filter(|step| !step.independent);
        together.flat_map(|step| &step.consumed).chain(&self.garbage).copied().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.garbage.is_empty()
    }
}

/// Sets the missing idempotency keys of messages, made from their positions in the turn after `turn`.
pub(crate) fn give_keys<'m>(to: &Recipient, turn: i64, messages: impl IntoIterator<Item = &'m mut CloudEvent>) {
    for (ordinal, message) in (0..).zip(messages) {
        message.default_key(|message| turn_key(to.as_str(), turn + 1, ordinal, message));
    }
}

/// Makes the side effect that emits all events in one statement; `None` without events. Checks the limits first.
pub(super) fn emit_effect<B: Backend>(events: Vec<(Recipient, Event)>) -> Result<Option<SideEffect<B>>> {
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

    fn step<B: Backend>(&mut self, transition: Transition<B, AnyState>) -> Result<Step<B>> {
        if !transition.emitted.is_empty() {
            check_all(&transition.emitted)?;
        }
        Ok(Step {
            consumed: self.remove(transition.consumed)?,
            side_effect: transition.side_effect,
            emitted: transition.emitted,
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
