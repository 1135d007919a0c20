//! Faults that make the server fail, for tests and rehearsals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tonic::{Code, Status};

use crate::grpc::larger_than_max;
use crate::proto::chipingress::pb::{PublishError, PublishErrorCode, PublishResponse};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// The longest time that a call hangs. Then the server answers DEADLINE_EXCEEDED.
pub const MAX_HANG: Duration = Duration::from_secs(10 * 60);

/// The calls or the events that a fault affects: all of them, unless a field narrows them.
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    /// Only events of this type. A fault of calls then affects only calls with such an event.
    pub event_type: Option<String>,
    /// The share of them, from 0 to 1, drawn from the seed of the [`Faults`].
    pub rate: f64,
    /// The maximum number of them; `None` sets no limit.
    pub times: Option<u64>,
}

impl When {
    /// All calls or events.
    pub const ALWAYS: When = When { event_type: None, rate: 1.0, times: None };

    /// Returns a condition that narrows the fault to this event type.
    #[must_use]
    pub fn of_type(event_type: impl Into<String>) -> Self {
        When { event_type: Some(event_type.into()), ..When::ALWAYS }
    }

    /// Narrows the fault to this share, from 0 (never) to 1 (always).
    #[must_use]
    pub fn rate(self, rate: f64) -> Self {
        When { rate, ..self }
    }

    /// Narrows the fault to the first `times` calls or events.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        When { times: Some(times), ..self }
    }
}

/// A failure that the server makes on purpose.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The server answers the call with this gRPC error and does none of its work.
    ///
    /// The fault also affects Ping and RegisterSchema, unless it is narrowed to an event type.
    Code(Code),
    /// The server answers the event with this publish error and does not keep it.
    ///
    /// A transactional batch with the event fails.
    Publish(PublishErrorCode, String),
    /// The server holds the call before its work. The call hangs until the first of these:
    ///
    /// - the [`FaultSwitch`] sets or clears the faults: the call continues;
    /// - the client gives up;
    /// - [`MAX_HANG`] has passed: the server answers DEADLINE_EXCEEDED;
    /// - the server stops: it answers UNAVAILABLE.
    ///
    /// The fault also affects Ping and RegisterSchema, unless it is narrowed to an event type.
    Hang,
    /// The server keeps the events, and then drops the connection without an answer.
    Drop,
    /// The server keeps the events, but its answer has only this number of results; 0 makes the answer empty.
    Results(usize),
}

/// The faults of a server, with their conditions.
///
/// The server tries the rules in order, and the first rule that affects the call or the event wins. The rules of calls
/// come before the rules of events.
///
/// # Examples
///
/// ```
/// use eventbox::ingress::{Fault, Faults, When};
/// use tonic::Code;
///
/// let faults = Faults::none()
///     .with(Fault::Code(Code::Unavailable), When::ALWAYS.rate(0.1))
///     .with(Fault::Drop, When::of_type("order.paid").times(3));
/// # let _ = faults;
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// The time that each call waits before its work.
    pub latency: Duration,
    /// The time that each call waits between its work and its answer.
    pub answer_latency: Duration,
    /// The maximum size of an encoded request, in bytes.
    ///
    /// The server refuses a larger request with RESOURCE_EXHAUSTED and "larger than max".
    pub refuse_over_bytes: Option<usize>,
    /// The seed of the rates. The same seed and the same order of calls give the same faults.
    pub seed: u64,
    /// All other faults with their conditions, in order; see [`with`](Self::with).
    pub rules: Vec<(Fault, When)>,
}

impl Faults {
    /// Returns an empty set of faults.
    #[must_use]
    pub fn none() -> Self {
        Faults::default()
    }

    /// Adds a rule after the others.
    #[must_use]
    pub fn with(mut self, fault: Fault, when: When) -> Self {
        self.rules.push((fault, when));
        self
    }
}

/// The switch of a server's faults; cheap to clone.
#[derive(Debug, Clone)]
pub struct FaultSwitch {
    active: Arc<watch::Sender<Arc<Active>>>,
}

/// The current faults, with the number of draws and of uses.
#[derive(Debug)]
struct Active {
    faults: Faults,
    drawn: AtomicU64,
    used: Vec<AtomicU64>,
}

impl Active {
    fn new(faults: Faults) -> Arc<Self> {
        let used = faults.rules.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Active { drawn: AtomicU64::new(0), used, faults })
    }

    /// Returns the result of `sort` for the first rule of this sort that affects a call or an event.
    fn first<'a, T>(&'a self, is_type: impl Fn(&str) -> bool, sort: impl Fn(&'a Fault) -> Option<T>) -> Option<T> {
        let rules = self.faults.rules.iter().zip(&self.used);
        let mut found = rules.filter_map(|((fault, when), used)| Some((sort(fault)?, when, used)));
        found.find(|(_, when, used)| self.befalls(when, used, &is_type)).map(|(found, _, _)| found)
    }

    fn befalls(&self, when: &When, used: &AtomicU64, is_type: &impl Fn(&str) -> bool) -> bool {
        if when.event_type.as_deref().is_some_and(|wanted| !is_type(wanted)) {
            return false;
        }
        if when.rate < 1.0 && self.draw() >= when.rate {
            return false;
        }
        let once_more = |used: u64| when.times.is_none_or(|times| used < times).then_some(used + 1);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, once_more).is_ok()
    }

    /// Returns the next random number from 0 to 1 of the seed, by SplitMix64.
    fn draw(&self) -> f64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        const FRACTION_BITS: i32 = 53;
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut bits = self.faults.seed.wrapping_add(STEP.wrapping_mul(count.wrapping_add(1)));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let fraction = (bits ^ (bits >> 31)) >> (u64::BITS as i32 - FRACTION_BITS);
        fraction as f64 * 2f64.powi(-FRACTION_BITS)
    }
}

/// The end of a call after its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Answer,
    Drop,
}

impl FaultSwitch {
    pub(super) fn new(faults: Faults) -> Self {
        FaultSwitch { active: Arc::new(watch::Sender::new(Active::new(faults))) }
    }

    /// Sets these faults, and starts their counts and draws from the beginning. Calls that hang continue.
    pub fn set(&self, faults: Faults) {
        self.active.send_replace(Active::new(faults));
    }

    /// Clears all faults. Calls that hang continue.
    pub fn clear(&self) {
        self.set(Faults::none());
    }

    /// Returns the current faults.
    #[must_use]
    pub fn get(&self) -> Faults {
        self.active.borrow().faults.clone()
    }

    fn active(&self) -> Arc<Active> {
        self.active.borrow().clone()
    }

    /// Applies the faults that come before the work of a call.
    pub(super) async fn before(&self, events: &[CloudEvent], request_bytes: usize) -> Result<(), Status> {
        self.hang(events).await?;
        let active = self.active();
        pause(active.faults.latency).await;
        if let Some(limit) = active.faults.refuse_over_bytes.filter(|limit| request_bytes > *limit) {
            return Err(larger_than_max(request_bytes, limit));
        }
        let code = active.first(any_type(events), |fault| match fault {
            Fault::Code(code) => Some(*code),
            _ => None,
        });
        code.map_or(Ok(()), |code| Err(Status::new(code, "a fault that was asked for")))
    }

    async fn hang(&self, events: &[CloudEvent]) -> Result<(), Status> {
        let mut changes = self.active.subscribe();
        let active = changes.borrow_and_update().clone();
        let hangs = active.first(any_type(events), |fault| matches!(fault, Fault::Hang).then_some(()));
        if hangs.is_some() {
            let lifted = tokio::time::timeout(MAX_HANG, changes.changed()).await;
            lifted.map_err(|_| Status::deadline_exceeded("a fault that was asked for"))?.ok();
        }
        Ok(())
    }

    /// Returns the publish error that a fault gives to an event, or `None` without such a fault.
    pub(super) fn publish_error(&self, event: &CloudEvent) -> Option<PublishError> {
        let active = self.active();
        active.first(any_type(std::slice::from_ref(event)), |fault| match fault {
            Fault::Publish(code, reason) => Some(PublishError { error_code: (*code).into(), reason: reason.clone() }),
            _ => None,
        })
    }

    /// Applies the faults that come after the work of a call.
    pub(super) async fn after(&self, events: &[CloudEvent], response: &mut PublishResponse) -> After {
        let active = self.active();
        pause(active.faults.answer_latency).await;
        if active.first(any_type(events), |fault| matches!(fault, Fault::Drop).then_some(())).is_some() {
            return After::Drop;
        }
        let short = active.first(any_type(events), |fault| match fault {
            Fault::Results(results) => Some(*results),
            _ => None,
        });
        response.results.truncate(short.unwrap_or(usize::MAX));
        After::Answer
    }
}

fn any_type(events: &[CloudEvent]) -> impl Fn(&str) -> bool {
    move |wanted| events.iter().any(|event| event.r#type == wanted)
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_the_seed_alone_and_are_spread() {
        let draws = |seed| {
            let active = Active::new(Faults { seed, ..Faults::none() });
            (0..1000).map(|_| active.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let low = draws(1).into_iter().filter(|draw| *draw < 0.25).count();
        assert!((200..300).contains(&low), "{low}");
        assert!(draws(1).into_iter().all(|draw| (0.0..1.0).contains(&draw)));
    }
}
