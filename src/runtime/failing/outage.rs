//! Kinds whose recipients fail alike. The cause is something that they share, such as a service that is away, and no
//! event.
//!
//! When [`MANY`] recipients of a kind fail and none succeeds in between, the kind is held: only one recipient at a time
//! is tried, a *probe*. The first success ends the hold. When others succeed in between, but [`MANY_AMONG_SUCCESSES`]
//! begin to fail within [`TOGETHER`], the kind goes on, and those failures count for no event either.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::recipient::Recipient;
use crate::retry::pause_after;
use crate::shard::ShardSet;
use crate::store::{FailingRecipient, HeldKind};
use crate::text::fit;

/// Number of failing recipients of a kind, without a success in between, that hold the kind.
const MANY: usize = 5;

/// Number of recipients of a kind that begin to fail within [`TOGETHER`], while others succeed, that is no
/// coincidence.
const MANY_AMONG_SUCCESSES: usize = 10;

/// Time within which recipients begin to fail together.
const TOGETHER: Duration = Duration::from_secs(60);

/// Pauses between the probes of a held kind.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Most recipients of a held kind that are remembered for probes. A scan finds the others when the kind goes on.
const MAX_PROBES: usize = 1_000;

/// Most recipients of a kind whose last errors are remembered for the report of the process.
const MAX_ERRORS: usize = 100;

/// Number of failing recipients in the report of the process.
pub(crate) const MAX_REPORTED: usize = 10;

/// Largest number of bytes of an error in the report.
pub(crate) const MAX_REPORTED_BYTES: usize = 500;

/// Most recipients of a kind whose failures count as their own.
const MAX_OWN: usize = 10_000;

/// Result of a turn of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It committed.
    Succeeded,
    /// Nothing was to do, or the poison event is in quarantine. That says nothing about the kind.
    Nothing,
    /// Something else: contention, or an outage of the database.
    Otherwise,
}

/// Failing recipients, by kind.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    /// Whether any kind has failures; read before the lock is taken.
    any: AtomicBool,
    kinds: Mutex<BTreeMap<String, Failing>>,
}

#[derive(Debug, Default)]
struct Failing {
    /// Recipients that failed since the last success of the kind.
    suspects: HashSet<Recipient>,
    /// Recipients that failed while others succeeded, with the start of that.
    own: HashMap<Recipient, Instant>,
    /// Last errors of some of the failing recipients.
    errors: HashMap<Recipient, String>,
    hold: Option<Hold>,
    /// Recipients that wait while the kind is held.
    released: Vec<Recipient>,
}

#[derive(Debug)]
struct Hold {
    since: Instant,
    cause: String,
    /// Failures in a row.
    failures: u32,
    /// Earliest start of the next probe.
    until: Instant,
    probing: Option<Recipient>,
    /// Recipients for probes; those that have not failed come first.
    untried: VecDeque<Recipient>,
    tried: VecDeque<Recipient>,
    known: HashSet<Recipient>,
}

impl Outages {
    /// Notes a failure. Returns true when the recipient is to blame, false when its kind is.
    pub(crate) fn failed(&self, to: &Recipient, cause: String) -> bool {
        let now = Instant::now();
        let mut kinds = self.kinds();
        self.any.store(true, Ordering::Release);
        let failing = kinds.entry(to.kind().to_owned()).or_default();
        failing.remember(to, &cause);
        if let Some(hold) = &mut failing.hold {
            hold.failed(to, cause, now);
            return false;
        }
        if failing.own.contains_key(to) {
            let together = failing.own.values().filter(|since| now.duration_since(**since) < TOGETHER).count();
            return together < MANY_AMONG_SUCCESSES;
        }
        failing.suspects.insert(to.clone());
        if failing.suspects.len() < MANY {
            return true;
        }
        let recipients = failing.suspects.len();
        tracing::warn!(
            kind = to.kind(),
            recipients,
            error = cause,
            "a kind is held: many of its recipients fail alike"
        );
        failing.hold = Some(Hold::new(&failing.suspects, cause, now));
        false
    }

    /// Notes the end of a turn without a failure of its recipient.
    pub(crate) fn ended(&self, to: &Recipient, how: Ended) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut kinds = self.kinds();
        let Some(failing) = kinds.get_mut(to.kind()) else { return };
        match how {
            Ended::Succeeded => failing.succeeded(to),
            Ended::Nothing => failing.has_nothing(to),
            Ended::Otherwise => failing.probe_came_back(to),
        }
        kinds.retain(|_, failing| !failing.is_over());
        self.any.store(!kinds.is_empty(), Ordering::Release);
    }

    /// Returns whether a kind is held, so that only probes start.
    pub(super) fn holds(&self, kind: &str) -> bool {
        self.any.load(Ordering::Acquire) && self.kinds().get(kind).is_some_and(|failing| failing.hold.is_some())
    }

    /// Returns whether a recipient is remembered for a probe.
    pub(crate) fn knows(&self, to: &Recipient) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let kinds = self.kinds();
        kinds.get(to.kind()).and_then(|failing| failing.hold.as_ref()).is_some_and(|hold| hold.known.contains(to))
    }

    /// Returns true when the kind of a recipient with events is held, and remembers the recipient.
    pub(crate) fn waits(&self, to: &Recipient) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut kinds = self.kinds();
        let hold = kinds.get_mut(to.kind()).and_then(|failing| failing.hold.as_mut());
        hold.map(|hold| hold.add(to)).is_some()
    }

    /// Returns the next recipient to probe. It is in flight until its turn ends.
    pub(crate) fn next_probe(&self, now: Instant) -> Option<Recipient> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.kinds().values_mut().find_map(|failing| failing.next_probe(now))
    }

    /// Returns when the next probe is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let kinds = self.kinds();
        let holds = kinds.values().filter_map(|failing| failing.hold.as_ref());
        holds.filter(|hold| hold.probing.is_none()).map(|hold| hold.until).min()
    }

    /// Returns the recipients that waited for kinds that have recovered.
    pub(crate) fn take_released(&self) -> Vec<Recipient> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut kinds = self.kinds();
        let released = kinds.values_mut().flat_map(|failing| std::mem::take(&mut failing.released)).collect();
        kinds.retain(|_, failing| !failing.is_over());
        self.any.store(!kinds.is_empty(), Ordering::Release);
        released
    }

    /// Returns one text for each held kind.
    pub(crate) fn problems(&self) -> Vec<String> {
        let kinds = self.kinds();
        let held = kinds.iter().filter_map(|(kind, failing)| Some((kind, failing.hold.as_ref()?)));
        held.map(|(kind, hold)| {
            let (recipients, seconds) = (hold.tried.len() + usize::from(hold.probing.is_some()), hold.since.elapsed());
            let seconds = seconds.as_secs();
            format!("kind {kind} is held: {recipients} recipients fail alike since {seconds} s: {}", hold.cause)
        })
        .collect()
    }

    /// Returns the kinds that are held, and failing recipients of these shards with their last errors.
    pub(crate) fn report(&self, owned: ShardSet) -> (Vec<HeldKind>, Vec<FailingRecipient>) {
        let kinds = self.kinds();
        let held = kinds.iter().filter_map(|(kind, failing)| {
            let error = fit(&failing.hold.as_ref()?.cause, MAX_REPORTED_BYTES);
            Some(HeldKind { kind: kind.clone(), error })
        });
        // A recipient that another process works on now may have recovered there.
        let errors = kinds.values().flat_map(|failing| &failing.errors);
        let failing = errors.filter(|(to, _)| owned.contains(to.shard())).take(MAX_REPORTED);
        let failing = failing
            .map(|(to, error)| FailingRecipient { recipient: to.to_string(), error: fit(error, MAX_REPORTED_BYTES) });
        (held.collect(), failing.collect())
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<String, Failing>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failing {
    fn remember(&mut self, to: &Recipient, cause: &str) {
        if let Some(error) = self.errors.get_mut(to) {
            cause.clone_into(error);
        } else if self.errors.len() < MAX_ERRORS {
            self.errors.insert(to.clone(), cause.to_owned());
        }
    }

    fn succeeded(&mut self, to: &Recipient) {
        self.errors.remove(to);
        self.suspects.remove(to);
        self.own.remove(to);
        let now = Instant::now();
        for suspect in self.suspects.drain() {
            if self.own.len() < MAX_OWN {
                self.own.entry(suspect).or_insert(now);
            }
        }
        if let Some(hold) = self.hold.take() {
            tracing::info!(
                kind = to.kind(),
                held_ms = hold.since.elapsed().as_millis(),
                "a kind goes on: a probe succeeded"
            );
            self.released.extend(hold.known.into_iter().filter(|waiting| waiting != to));
        }
    }

    fn has_nothing(&mut self, to: &Recipient) {
        self.errors.remove(to);
        self.suspects.remove(to);
        self.own.remove(to);
        let Some(hold) = &mut self.hold else { return };
        if hold.probing.as_ref() == Some(to) {
            hold.probing = None;
        }
        hold.forget(to);
        // No recipient is left to probe with, so the next ones are tried again.
        if hold.known.is_empty() {
            self.hold = None;
            self.suspects.clear();
        }
    }

    fn probe_came_back(&mut self, to: &Recipient) {
        if let Some(hold) = &mut self.hold
            && hold.probing.as_ref() == Some(to)
        {
            hold.probing = None;
            hold.until = Instant::now() + pause_after(hold.failures, PAUSES.0, PAUSES.1);
            hold.tried.push_back(to.clone());
        }
    }

    fn next_probe(&mut self, now: Instant) -> Option<Recipient> {
        let hold = self.hold.as_mut()?;
        if hold.probing.is_some() || hold.until > now {
            return None;
        }
        hold.probing = hold.untried.pop_front().or_else(|| hold.tried.pop_front());
        hold.probing.clone()
    }

    fn is_over(&self) -> bool {
        self.suspects.is_empty() && self.own.is_empty() && self.hold.is_none() && self.released.is_empty()
    }
}

impl Hold {
    fn new(suspects: &HashSet<Recipient>, cause: String, now: Instant) -> Self {
        Hold {
            since: now,
            cause,
            failures: 0,
            until: now + pause_after(0, PAUSES.0, PAUSES.1),
            probing: None,
            untried: VecDeque::new(),
            tried: suspects.iter().cloned().collect(),
            known: suspects.clone(),
        }
    }

    fn failed(&mut self, to: &Recipient, cause: String, now: Instant) {
        self.cause = cause;
        if self.probing.as_ref() == Some(to) {
            self.probing = None;
            self.failures = self.failures.saturating_add(1);
            self.until = now + pause_after(self.failures, PAUSES.0, PAUSES.1);
            self.tried.push_back(to.clone());
        } else if self.known.len() < MAX_PROBES && self.known.insert(to.clone()) {
            // The turn began before the kind was held.
            self.tried.push_back(to.clone());
        }
    }

    /// Remembers a recipient, as long as there is room.
    fn add(&mut self, to: &Recipient) {
        if self.known.len() < MAX_PROBES && self.known.insert(to.clone()) {
            self.untried.push_back(to.clone());
        }
    }

    fn forget(&mut self, to: &Recipient) {
        if self.known.remove(to) {
            self.untried.retain(|waiting| waiting != to);
            self.tried.retain(|waiting| waiting != to);
        }
    }
}
