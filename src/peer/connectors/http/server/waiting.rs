//! The requests that wait for their answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::answer::{Answer, Receipt};

/// Most answers that the server keeps for requests with an idempotency key that are sent again, and most requests with
/// a key that it keeps although their client has gone.
pub const MAX_KEPT_ANSWERS: usize = 1_024;

/// A request: its lane, and its number.
pub(super) type Place = (u64, u64);

/// The first and the last of a range of requests.
pub(super) type Numbers = (u64, u64);

/// What a waiting request gets.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) answer: Arc<Answer>,
    /// The receipt of an answer that came from an event.
    pub(super) receipt: Option<Receipt>,
}

/// All waiting requests of a server.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Time for which requests with a key, and their answers, are kept for a client that comes again.
    keep: Duration,
    inner: Mutex<Inner>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<Place, Slot>,
    keys: HashMap<Arc<str>, Place>,
    abandoned: VecDeque<(Instant, Place)>,
    kept: HashMap<Arc<str>, Arc<Answer>>,
    kept_until: VecDeque<(Instant, Arc<str>)>,
}

/// One request, and those with the same idempotency key that came while it waited.
#[derive(Debug)]
struct Slot {
    waiters: Vec<oneshot::Sender<Reply>>,
    key: Option<Arc<str>>,
    is_committed: bool,
}

impl Slot {
    fn is_wanted(&self) -> bool {
        self.waiters.iter().any(|waiter| !waiter.is_closed())
    }
}

/// How a request began to wait.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is new: emit it.
    New(Ticket),
    /// The same request waits already: its answer is for both.
    Joined(Ticket),
    /// The same request has an answer.
    Answered(Arc<Answer>),
}

/// What became of an answer.
#[derive(Debug)]
pub(super) enum Routed {
    /// Requests have it; the receiver tells when a connection has taken it.
    Sent(oneshot::Receiver<()>),
    /// Nobody waits.
    Nobody,
}

impl Waiting {
    pub(super) fn new(keep: Duration) -> Self {
        Waiting { keep, inner: Mutex::default(), left: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request wait at `place`, or at that of an earlier request with the same key.
    pub(super) fn enter(self: &Arc<Self>, place: Place, key: Option<Arc<str>>) -> Entered {
        let mut inner = self.lock();
        inner.forget_old(Instant::now());
        let (sender, receiver) = oneshot::channel();
        let ticket = |place| Ticket { waiting: Arc::clone(self), place, receiver };
        if let Some(key) = &key {
            if let Some(answer) = inner.kept.get(key) {
                return Entered::Answered(Arc::clone(answer));
            }
            if let Some(first) = inner.keys.get(key).copied()
                && let Some(slot) = inner.slots.get_mut(&first)
            {
                slot.waiters.retain(|waiter| !waiter.is_closed());
                slot.waiters.push(sender);
                return Entered::Joined(ticket(first));
            }
            inner.keys.insert(Arc::clone(key), place);
        }
        inner.slots.insert(place, Slot { waiters: vec![sender], key, is_committed: false });
        Entered::New(ticket(place))
    }

    /// Notes that the events of a request are committed.
    pub(super) fn committed(&self, place: Place) {
        if let Some(slot) = self.lock().slots.get_mut(&place) {
            slot.is_committed = true;
        }
    }

    pub(super) fn is_committed(&self, place: Place) -> bool {
        self.lock().slots.get(&place).is_some_and(|slot| slot.is_committed)
    }

    /// Returns whether anybody still waits at a place.
    pub(super) fn is_wanted(&self, place: Place) -> bool {
        self.lock().slots.get(&place).is_some_and(Slot::is_wanted)
    }

    /// Gives an answer from an event to every request of a lane whose number is in one of the ranges, and keeps it for
    /// requests with a key.
    pub(super) fn route(&self, lane: u64, numbers: &[Numbers], answer: Answer) -> Routed {
        let (receipt, taken) = Receipt::new();
        let reply = Reply { answer: Arc::new(answer), receipt: Some(receipt) };
        let takers = numbers.iter().filter(|numbers| self.give(lane, **numbers, &reply)).count();
        match takers {
            0 => Routed::Nobody,
            _ => Routed::Sent(taken),
        }
    }

    /// Gives an answer of the server itself to every request of a lane whose number is in the range.
    pub(super) fn tell(&self, lane: u64, numbers: Numbers, answer: Answer) {
        self.give(lane, numbers, &Reply { answer: Arc::new(answer), receipt: None });
    }

    /// Gives an answer of the server itself to every request.
    pub(super) fn tell_all(&self, answer: Answer) {
        let (mut inner, answer) = (self.lock(), Arc::new(answer));
        let places: Vec<Place> = inner.slots.keys().copied().collect();
        for slot in places.into_iter().filter_map(|place| inner.remove(place)).collect::<Vec<_>>() {
            slot.give(&Reply { answer: Arc::clone(&answer), receipt: None });
        }
        self.left.notify_waiters();
    }

    /// Returns whether anybody took the reply.
    fn give(&self, lane: u64, (first, last): Numbers, reply: &Reply) -> bool {
        if first > last {
            return false;
        }
        let mut inner = self.lock();
        let range = (lane, first)..=(lane, last);
        let places: Vec<Place> = inner.slots.range(range).map(|(place, _)| *place).collect();
        let mut has_taker = false;
        for place in places {
            let Some(slot) = inner.remove(place) else { continue };
            if let Some(key) = slot.key.clone().filter(|_| reply.receipt.is_some()) {
                inner.keep(key, Arc::clone(&reply.answer), Instant::now() + self.keep);
            }
            has_taker |= slot.give(reply);
        }
        self.left.notify_waiters();
        has_taker
    }

    /// Waits until nobody waits.
    pub(super) async fn nobody(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if !self.lock().slots.values().any(Slot::is_wanted) {
                return;
            }
            left.await;
        }
    }

    /// Forgets a request that nobody waits for. A request with a key may come again, so its place is kept.
    fn leave(&self, place: Place) {
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get(&place).filter(|slot| !slot.is_wanted()) else { return };
        if slot.key.is_some() && slot.is_committed {
            inner.abandoned.push_back((Instant::now() + self.keep, place));
        } else {
            inner.remove(place);
        }
        self.left.notify_waiters();
    }
}

impl Slot {
    fn give(self, reply: &Reply) -> bool {
        self.waiters.into_iter().filter_map(|waiter| waiter.send(reply.clone()).ok()).count() > 0
    }
}

impl Inner {
    fn remove(&mut self, place: Place) -> Option<Slot> {
        let slot = self.slots.remove(&place)?;
        if let Some(key) = &slot.key {
            self.keys.remove(key);
        }
        Some(slot)
    }

    fn keep(&mut self, key: Arc<str>, answer: Arc<Answer>, until: Instant) {
        self.kept_until.push_back((until, Arc::clone(&key)));
        self.kept.insert(key, answer);
    }

    /// Forgets what was kept for its time, and the oldest of what is too much.
    fn forget_old(&mut self, now: Instant) {
        while let Some((until, key)) = self.kept_until.front() {
            if *until > now && self.kept_until.len() <= MAX_KEPT_ANSWERS {
                break;
            }
            self.kept.remove(key);
            self.kept_until.pop_front();
        }
        while let Some((until, place)) = self.abandoned.front().copied() {
            if until > now && self.abandoned.len() <= MAX_KEPT_ANSWERS {
                break;
            }
            self.abandoned.pop_front();
            if self.slots.get(&place).is_some_and(|slot| !slot.is_wanted()) {
                self.remove(place);
            }
        }
    }
}

/// A request's right to an answer. Dropping it gives the right up.
#[derive(Debug)]
pub(super) struct Ticket {
    waiting: Arc<Waiting>,
    place: Place,
    receiver: oneshot::Receiver<Reply>,
}

impl Ticket {
    /// Returns where the request waits: its own place, or that of an earlier one with the same key.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Waits for the reply. `None` when time is over, or the server has gone.
    pub(super) async fn reply_until(&mut self, end: Instant) -> Option<Reply> {
        tokio::time::timeout_at(end, &mut self.receiver).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Closed first, so that the slot sees that this waiter is gone.
        self.receiver.close();
        self.waiting.leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn hello() -> Answer {
        Answer::say(StatusCode::OK, "hello")
    }

    fn new(waiting: &Arc<Waiting>, place: Place, key: Option<&str>) -> Ticket {
        match waiting.enter(place, key.map(Arc::from)) {
            Entered::New(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    async fn reply(mut ticket: Ticket) -> Option<StatusCode> {
        let end = Instant::now() + Duration::from_secs(1);
        ticket.reply_until(end).await.map(|reply| reply.answer.status)
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_answers_every_request_in_its_range() {
        let waiting = Arc::new(Waiting::new(KEEP));
        let [a, b, c, other] = [(1, 1), (1, 17), (1, 33), (2, 18)].map(|place| new(&waiting, place, None));
        assert!(matches!(waiting.route(1, &[(1, 17)], hello()), Routed::Sent(_)));
        let statuses = [reply(a).await, reply(b).await, reply(c).await, reply(other).await];
        assert_eq!(statuses, [Some(StatusCode::OK), Some(StatusCode::OK), None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waits_for_is_noticed() {
        let waiting = Arc::new(Waiting::new(KEEP));
        assert!(matches!(waiting.route(1, &[(1, 1)], hello()), Routed::Nobody));
        drop(new(&waiting, (1, 1), None));
        assert!(matches!(waiting.route(1, &[(1, 1)], hello()), Routed::Nobody));
        let ticket = new(&waiting, (1, 2), None);
        assert!(matches!(waiting.route(1, &[(2, 2)], hello()), Routed::Sent(_)));
        assert!(matches!(waiting.route(1, &[(2, 2)], hello()), Routed::Nobody), "it has an answer already");
        drop(ticket);
        waiting.nobody().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_not_taken_is_noticed() {
        let waiting = Arc::new(Waiting::new(KEEP));
        let ticket = new(&waiting, (1, 1), None);
        let Routed::Sent(taken) = waiting.route(1, &[(1, 1)], hello()) else { panic!("it waits") };
        drop(ticket);
        assert!(taken.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_key_has_the_same_answer() {
        let waiting = Arc::new(Waiting::new(KEEP));
        let first = new(&waiting, (1, 1), Some("k"));
        let Entered::Joined(second) = waiting.enter((2, 2), Some("k".into())) else { panic!("it joins") };
        assert_eq!(second.place(), (1, 1));
        waiting.route(1, &[(1, 1)], hello());
        assert_eq!((reply(first).await, reply(second).await), (Some(StatusCode::OK), Some(StatusCode::OK)));
        assert!(matches!(waiting.enter((3, 3), Some("k".into())), Entered::Answered(_)));
        tokio::time::advance(KEEP).await;
        drop(new(&waiting, (3, 3), Some("k")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_again_gets_its_answer() {
        let waiting = Arc::new(Waiting::new(KEEP));
        let gone = new(&waiting, (1, 1), Some("k"));
        waiting.committed((1, 1));
        drop(gone);
        waiting.nobody().await;
        let Entered::Joined(again) = waiting.enter((2, 2), Some("k".into())) else { panic!("it joins") };
        waiting.route(1, &[(1, 1)], hello());
        assert_eq!(reply(again).await, Some(StatusCode::OK));
        drop(new(&waiting, (1, 5), Some("not committed")));
        assert!(waiting.lock().slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_has_a_bound() {
        let waiting = Arc::new(Waiting::new(KEEP));
        for number in 0..2_000 {
            let ticket = new(&waiting, (1, number), Some(&format!("k{number}")));
            waiting.committed((1, number));
            if number % 2 == 0 {
                waiting.route(1, &[(number, number)], hello());
            }
            drop(ticket);
        }
        let inner = waiting.lock();
        assert!(inner.slots.len() <= MAX_KEPT_ANSWERS + 1 && inner.kept.len() <= MAX_KEPT_ANSWERS + 1);
        assert!(inner.keys.len() == inner.slots.len() && inner.kept.len() == inner.kept_until.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_answers_everybody() {
        let waiting = Arc::new(Waiting::new(KEEP));
        let tickets = [(1, 1), (2, 2)].map(|place| new(&waiting, place, None));
        waiting.tell_all(Answer::stopping());
        for ticket in tickets {
            assert_eq!(reply(ticket).await, Some(StatusCode::SERVICE_UNAVAILABLE));
        }
    }
}
