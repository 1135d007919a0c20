//! How the loop of the workers keeps rates: it asks them before each start, and makes ready whom they release.

use std::sync::Arc;

use tokio::time::Instant;

use super::paused::PausedKinds;
use super::rates::Rates;
use super::ready::ReadySet;
use super::scheduler::{Scheduler, Task};
use crate::eventbox::EventId;
use crate::recipient::Recipient;
use crate::runtime::metrics;
use crate::shard::ShardSet;
use crate::store::Backend;

impl<B: Backend> Scheduler<B> {
    /// Makes ready the recipients that their rates release.
    pub(super) fn release_held(&mut self, now: Instant) {
        if self.shared.rates.is_off() {
            return;
        }
        let rates = Arc::clone(&self.shared.rates);
        rates.share(*self.owned.borrow());
        let released = rates.release(now);
        if released.needs_scan {
            self.scans.look_at(ShardSet::ALL);
        }
        self.named(released.recipients);
        rates.tell_changes(metrics::held_recipients);
    }

    /// Returns those of the taken recipients whose rates let them begin. The others are held, or found again by a scan.
    pub(super) fn admit(&mut self, taken: Vec<Recipient>, now: Instant) -> Vec<Recipient> {
        let rates = &self.shared.rates;
        if rates.is_off() {
            return taken;
        }
        let (admitted, held): (Vec<_>, Vec<_>) = taken.into_iter().partition(|to| rates.admit(to, now));
        held.iter().for_each(|to| self.queue.forget(to));
        admitted
    }

    /// Returns the kinds that a scan passes over: those on hold, and those of which enough recipients are held.
    pub(super) fn passed_over(&self) -> PausedKinds {
        let mut kinds = self.held.borrow().clone();
        kinds.throttled.extend(self.shared.rates.full_kinds());
        kinds
    }

    /// Removes a task that has ended.
    pub(super) fn remove(&mut self, task: tokio::task::Id) -> Option<Task> {
        let task = self.running.remove(&task)?;
        match &task {
            Task::Scan => {}
            Task::Round(_, recipients) => self.shared.rates.ended(recipients),
            Task::Turn(to) => self.shared.rates.ended(std::slice::from_ref(to)),
        }
        Some(task)
    }
}

/// Returns whether a recipient is held whose first event a scan saw. Its next listing includes that event.
pub(super) fn is_held(
    rates: &Rates,
    queue: &mut ReadySet,
    (to, first): (&Recipient, EventId),
    began: Instant,
    now: Instant,
) -> bool {
    let is_late = queue.is_late(to, first);
    let has_events = is_late || !queue.has_consumed(to, first, began);
    let is_held = has_events && rates.waits(to, now);
    if is_held && is_late {
        queue.list_anew(to);
    }
    is_held
}
