//! The queues and groups of a [`Sender`](crate::eventbox::Sender), and what happens when a group fails.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Pool;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sender::SenderConfig;
use super::sender_retries::Retries;
use super::wake_up;
use super::{Emitted, MAX_EMIT_EVENTS, row_of};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::event::receipt::Receipt;
use crate::eventbox::event::trace;
use crate::eventbox::event::{Event, EventId};
use crate::eventbox::metrics;
use crate::origin;
use crate::recipient::Recipient;
use crate::store::{Backend, Class, EventRow, Fault, Gone};

/// State that all clones of a sender share.
pub(super) struct Shared<B: Backend> {
    pub(crate) pool: Pool<B>,
    pub(crate) config: SenderConfig,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Permits for events that go singly, each on its own connection.
    singles: Semaphore,
    under_way: Arc<UnderWay>,
    /// The lane of unnamed events, and the lane of named events.
    lanes: Mutex<[Lane; 2]>,
    /// Notified when a task that sends ends with its runtime.
    gone: Gone,
}

/// Queued requests, named or unnamed, and the number of tasks that send them.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Request>,
    tasks: u32,
}

/// Count of the events that have no outcome yet.
#[derive(Default)]
struct UnderWay {
    count: AtomicUsize,
    none: Notify,
}

/// Permits of an event's place in the queue, held until the event has an outcome.
pub(super) struct Room {
    _event: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    under_way: Arc<UnderWay>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.under_way.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.under_way.none.notify_waiters();
        }
    }
}

/// An emit that waits for its commit.
pub(super) struct Request {
    to: Recipient,
    event: Event,
    id: EventId,
    /// Trace context of the caller's span, for an event that has none.
    trace: Option<String>,
    reply: oneshot::Sender<Result<Receipt>>,
    room: Room,
}

impl Request {
    pub(super) fn new(
        to: Recipient,
        event: Event,
        id: EventId,
        room: Room,
    ) -> (Self, oneshot::Receiver<Result<Receipt>>) {
        let (reply, answer) = oneshot::channel();
        let event = event.or_origin(origin::current().as_ref());
        (Request { to, event, id, trace: trace::current(), reply, room }, answer)
    }

    fn key(&self) -> (u8, &str, Option<&str>, EventId) {
        (self.to.shard(), self.to.as_str(), self.event.name(), self.id)
    }

    fn is_copy_of(&self, other: &Request) -> bool {
        self.event.name().is_some() && self.event.name() == other.event.name() && self.to == other.to
    }

    fn row(&self) -> EventRow<'_> {
        row_of(&self.to, &self.event, self.id, self.trace.as_deref(), None)
    }

    /// Sends the result to the caller, who may have stopped waiting, and gives the room back.
    fn answer(self, emitted: Emitted) {
        metrics::emitted(&self.to, emitted);
        wake_up::wake(&std::iter::once(&self.to), true);
        let receipt = Receipt::new(self.to, emitted, self.id, self.event.name());
        let _ = self.reply.send(Ok(receipt));
        drop(self.room);
    }

    fn refuse(self, error: impl FnOnce(String) -> Error) {
        let _ = self.reply.send(Err(error(format!("emit to {}", self.to))));
        drop(self.room);
    }
}

impl<B: Backend> Shared<B> {
    pub(super) fn new(pool: Pool<B>, config: SenderConfig) -> Self {
        let permits = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Shared {
            pool,
            events: Arc::new(Semaphore::new(permits(config.queue_events))),
            bytes: Arc::new(Semaphore::new(permits(config.queue_bytes))),
            singles: Semaphore::new(permits(config.concurrent_groups)),
            under_way: Arc::default(),
            lanes: Mutex::default(),
            gone: Gone::default(),
            config,
        }
    }

    /// Waits for room. Returns `None` when the sender is closed.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.config.queue_bytes.get());
        // Unconstrained: tokio wakes a task whose poll budget is used up in no particular order, but its emits have an
        // order.
        let room = async {
            let event = Arc::clone(&self.events).acquire_owned().await.ok()?;
            Some((event, Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?))
        };
        let (event, bytes) = tokio::task::unconstrained(room).await?;
        self.under_way.count.fetch_add(1, Ordering::AcqRel);
        Some(Room { _event: event, _bytes: bytes, under_way: Arc::clone(&self.under_way) })
    }

    /// Queues a request, and starts a task for it unless there are enough.
    pub(super) fn push(self: &Arc<Self>, request: Request) {
        let lane = Self::lane_of(request.event.name().is_some());
        if let Some(entry) = self.lanes().get_mut(lane) {
            entry.queue.push_back(request);
        }
        self.see_to(lane);
    }

    /// Waits for the result of a queued request. The error means that the task that sent the request ended with its
    /// runtime.
    pub(super) async fn answer(
        self: &Arc<Self>,
        is_named: bool,
        answer: oneshot::Receiver<Result<Receipt>>,
    ) -> Result<Result<Receipt>, RecvError> {
        let lane = Self::lane_of(is_named);
        self.gone.answer(answer, || self.see_to(lane)).await
    }

    /// Returns the lane. An engine with one writer needs one lane, because there no emit waits for a name.
    fn lane_of(is_named: bool) -> usize {
        usize::from(is_named && !B::ONE_WRITER)
    }

    /// Starts a task for the queue of a lane, unless there are enough.
    fn see_to(self: &Arc<Self>, lane: usize) {
        let most = if B::ONE_WRITER { 1 } else { self.config.concurrent_groups.get() };
        {
            let mut lanes = self.lanes();
            let Some(entry) = lanes.get_mut(lane) else { return };
            if entry.queue.is_empty() || entry.tasks >= most {
                return;
            }
            entry.tasks += 1;
        }
        let sending = Sending { shared: Arc::clone(self), lane, has_ended: false };
        tokio::spawn(sending.run());
    }

    /// Refuses further requests, also those that wait for room.
    pub(super) fn close(&self) {
        self.events.close();
        self.bytes.close();
    }

    /// Waits until every request has its outcome.
    pub(super) async fn idle(&self) {
        loop {
            let none = self.under_way.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if self.under_way.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }

    /// Refuses the queued requests. Returns how many requests had no outcome until now.
    pub(super) fn abandon(&self) -> usize {
        let left = self.under_way.count.load(Ordering::Acquire);
        let queued: Vec<Request> = self.lanes().iter_mut().flat_map(|lane| lane.queue.drain(..)).collect();
        for request in queued {
            request.refuse(|attempt| Error::misuse(attempt, Misuse::Stopped { what: "sender" }));
        }
        left
    }

    fn lanes(&self) -> MutexGuard<'_, [Lane; 2]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next group: the queued requests that fit. `None` ends the task, and its lane no longer counts it.
    fn take(&self, lane: usize) -> Option<Vec<Request>> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(lane)?;
        let full = usize::try_from(self.config.group_events.get()).unwrap_or(usize::MAX).min(MAX_EMIT_EVENTS);
        let heavy = usize::try_from(self.config.group_bytes.get()).unwrap_or(usize::MAX);
        if B::is_by_shard() && !lane.queue.is_empty() {
            return Some(of_one_shard(&mut lane.queue, full, heavy));
        }
        let mut bytes = 0_usize;
        let fitting = lane.queue.iter().take(full).take_while(|request| {
            bytes = bytes.saturating_add(request.event.value().len());
            bytes <= heavy
        });
        let count = fitting.count().max(1).min(lane.queue.len());
        if count == 0 {
            lane.tasks = lane.tasks.saturating_sub(1);
            return None;
        }
        Some(lane.queue.drain(..count).collect())
    }

    /// Sends a group, and answers each of its requests now or later.
    async fn send(self: &Arc<Self>, mut group: Vec<Request>) {
        group.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        metrics::sent_group(group.len());
        let all_named = group.iter().all(|request| request.event.name().is_some());
        let mut retries = Retries::new(self.config.retry_for);
        let mut lost = false;
        let fault = loop {
            let fault = match self.insert(&group).await {
                Ok(answers) => {
                    group.into_iter().zip(answers).for_each(|(request, emitted)| request.answer(emitted));
                    return;
                }
                Err(fault) => fault,
            };
            lost |= fault.lost_the_answer();
            let is_busy = B::ONE_WRITER && fault.class() == Class::Contention;
            // Only sending the names again shows whether a lost commit succeeded.
            let again = is_busy || (lost && all_named && fault.class() == Class::Transient);
            if !again || !retries.pause().await {
                break fault;
            }
        };
        let lost = lost && all_named;
        let splits = fault.class() != Class::Transient && !(B::ONE_WRITER && fault.class() == Class::Contention);
        // A single request with contention goes to `send_alone` too, which retries it.
        if splits && (group.len() > 1 || fault.class() == Class::Contention) {
            for request in group {
                tokio::spawn(Arc::clone(self).send_alone(request, lost));
            }
            return;
        }
        let fault = fault.shared();
        group.into_iter().for_each(|request| request.refuse(|attempt| fault.during_commit(attempt, lost)));
    }

    /// Inserts a sorted group in one statement. Returns the result of each request.
    async fn insert(&self, group: &[Request]) -> Result<Vec<Emitted>, Fault> {
        let mut rows: Vec<EventRow<'_>> = Vec::with_capacity(group.len());
        // Copies of a name are adjacent, and the oldest comes first.
        let mut places = Vec::with_capacity(group.len());
        let mut before: Option<&Request> = None;
        for request in group {
            let is_copy = before.is_some_and(|before| request.is_copy_of(before));
            if !is_copy {
                rows.push(request.row());
            }
            places.push((rows.len().saturating_sub(1), is_copy));
            before = Some(request);
        }
        let noted = B::insert_group(&self.pool, &rows, self.config.lock_wait).await?;
        let answer = |(place, is_copy): (usize, bool)| match noted.get(place) {
            Some(Emitted::Added) if is_copy => Emitted::Duplicate,
            Some(noted) => *noted,
            None => Emitted::Duplicate,
        };
        Ok(places.into_iter().map(answer).collect())
    }

    /// Sends a single request, and retries it after contention, and after a lost answer.
    async fn send_alone(self: Arc<Self>, request: Request, mut lost: bool) {
        let is_named = request.event.name().is_some();
        let mut retries = Retries::new(self.config.retry_for);
        loop {
            let inserted = {
                // The semaphore is never closed. Without a permit only the bound would be lost.
                let _permit = self.singles.acquire().await;
                self.insert(std::slice::from_ref(&request)).await
            };
            let fault = match inserted {
                Ok(answers) => return request.answer(answers.first().copied().unwrap_or(Emitted::Added)),
                Err(fault) => fault,
            };
            lost |= is_named && fault.lost_the_answer();
            let again = match fault.class() {
                Class::Contention => true,
                Class::Transient => lost,
                Class::Permanent => false,
            };
            if !again || !retries.pause().await {
                let fault = fault.shared();
                return request.refuse(|attempt| fault.during_commit(attempt, lost));
            }
        }
    }
}

/// Takes the queued requests of the first one's shard that fit: a group of one shard commits on one node, and fails
/// with that node alone.
fn of_one_shard(queue: &mut VecDeque<Request>, full: usize, heavy: usize) -> Vec<Request> {
    let shard = queue.front().map(|request| request.to.shard());
    let (mut bytes, mut taken) = (0_usize, Vec::new());
    let mut left = VecDeque::with_capacity(queue.len());
    for request in queue.drain(..) {
        let is_next = Some(request.to.shard()) == shard && taken.len() < full;
        let with_it = bytes.saturating_add(request.event.value().len());
        if is_next && (taken.is_empty() || with_it <= heavy) {
            bytes = with_it;
            taken.push(request);
        } else {
            // A later request of this shard must not overtake one that did not fit.
            bytes = if is_next { usize::MAX } else { bytes };
            left.push_back(request);
        }
    }
    *queue = left;
    taken
}

/// A task that sends the queue of a lane. When the task is dropped with its runtime, or panics, another task is
/// started.
struct Sending<B: Backend> {
    shared: Arc<Shared<B>>,
    lane: usize,
    has_ended: bool,
}

impl<B: Backend> Sending<B> {
    async fn run(mut self) {
        while let Some(group) = self.shared.take(self.lane) {
            self.shared.send(group).await;
        }
        self.has_ended = true;
    }
}

impl<B: Backend> Drop for Sending<B> {
    fn drop(&mut self) {
        if !self.has_ended {
            if let Some(lane) = self.shared.lanes().get_mut(self.lane) {
                lane.tasks = lane.tasks.saturating_sub(1);
            }
            self.shared.gone.tell();
        }
    }
}

impl<B: Backend> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.under_way.count.load(Ordering::Relaxed);
        f.debug_struct("Shared").field("config", &self.config).field("under_way", &under_way).finish_non_exhaustive()
    }
}
