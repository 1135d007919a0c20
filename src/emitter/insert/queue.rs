//! Messages that share their inserts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::clock::from_now;
use crate::emitter::context::within;
use crate::error::Error;
use crate::outbox::MAX_OUTBOX_BYTES;
use crate::outbox::row::{Stored, micros, row};
use crate::room::{Place, Room};
use crate::store::{Backend, Class, Fault};

/// Result of an insert, for its caller.
pub(crate) type Inserted = Result<Uuid, Arc<Error>>;

/// A message that waits for its insert.
pub(crate) struct Request {
    pub(crate) stored: Stored,
    pub(crate) reply: oneshot::Sender<Inserted>,
    /// Time at which the caller gives up, unless the insert has begun.
    pub(crate) insert_by: Instant,
    /// Its share of the queue's bytes, which it keeps until it is stored.
    pub(crate) place: Option<Place>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.stored.payload.len()
    }
}

/// Reason why a message is not in the queue.
pub(crate) enum NotQueued {
    /// The emitter is stopping.
    Closed,
    /// The queue had no room in time.
    Late,
}

/// The queue of inserts.
pub(crate) struct InsertQueue {
    sender: SyncMutex<Option<mpsc::Sender<Request>>>,
    weak: mpsc::WeakSender<Request>,
    waiting: Mutex<Waiting>,
    room: Room,
    capacity: usize,
    workers: AtomicUsize,
}

/// The requests in the queue.
struct Waiting {
    queue: mpsc::Receiver<Request>,
    /// The request that did not fit into the last insert; it comes first.
    held_back: Option<Request>,
}

impl InsertQueue {
    pub(crate) fn new(batch_size: usize) -> Self {
        let capacity = batch_size.saturating_mul(200).clamp(10_000, 1_000_000);
        let (sender, waiting) = mpsc::channel(capacity);
        InsertQueue {
            weak: sender.downgrade(),
            sender: SyncMutex::new(Some(sender)),
            waiting: Mutex::new(Waiting { queue: waiting, held_back: None }),
            room: Room::new(),
            capacity,
            workers: AtomicUsize::new(0),
        }
    }

    /// Counts a worker until the returned guard is dropped.
    pub(crate) fn worker(&self) -> Worker<'_> {
        self.workers.fetch_add(1, Ordering::AcqRel);
        Worker(self)
    }

    /// Waits for room until the caller gives up, and queues the message. A future dropped before that queues nothing.
    pub(crate) async fn push(&self, mut request: Request) -> Result<(), NotQueued> {
        let sender = self.weak.upgrade().ok_or(NotQueued::Closed)?;
        request.place = Some(self.room.take(request.bytes(), request.insert_by).await.ok_or(NotQueued::Late)?);
        let place = timeout_at(request.insert_by, sender.reserve()).await;
        place.map_err(|_| NotQueued::Late)?.map_err(|_| NotQueued::Closed)?.send(request);
        Ok(())
    }

    /// Lets the workers finish what is queued and end.
    pub(crate) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn fill_ratio(&self) -> f64 {
        let free = self.weak.upgrade().map_or(self.capacity, |sender| sender.capacity());
        crate::instrument::whole(self.capacity - free) / crate::instrument::whole(self.capacity)
    }

    /// Returns the next messages that share an insert: the waiting ones, and those that come within `linger`. Returns
    /// `None` when the queue is closed and empty.
    pub(crate) async fn next(&self, full: usize, linger: Duration) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock().await;
        let first = match waiting.held_back.take() {
            Some(request) => request,
            None => waiting.queue.recv().await?,
        };
        let (mut bytes, due) = (first.bytes(), from_now(linger));
        let mut batch = vec![first];
        while batch.len() < full {
            let next = match waiting.queue.try_recv() {
                Ok(request) => Some(request),
                Err(_) if linger.is_zero() => None,
                Err(_) => timeout_at(due, waiting.queue.recv()).await.ok().flatten(),
            };
            let Some(request) = next else { break };
            bytes += request.bytes();
            if bytes > MAX_OUTBOX_BYTES {
                waiting.held_back = Some(request);
                break;
            }
            batch.push(request);
        }
        Some(batch)
    }
}

/// A task that inserts queued messages. When the last one ends, also with its runtime, the queue closes and refuses the
/// waiting messages.
pub(crate) struct Worker<'a>(&'a InsertQueue);

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if self.0.workers.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.0.close();
        // No other worker holds the queue.
        if let Ok(mut waiting) = self.0.waiting.try_lock() {
            waiting.queue.close();
            let held_back = waiting.held_back.take();
            for request in held_back.into_iter().chain(std::iter::from_fn(|| waiting.queue.try_recv().ok())) {
                let _ = request.reply.send(Err(Arc::new(closed())));
            }
        }
    }
}

/// Inserts messages in one statement. If one of them makes it fail, inserts each in a statement of its own. Returns the
/// results in the order of the messages.
pub(crate) async fn insert_all<B: Backend>(
    pool: &Pool<B>,
    permits: &Semaphore,
    stored: &mut [Stored],
    claim_ttl: Duration,
    limit: Duration,
) -> Vec<Result<(), Arc<Error>>> {
    let during = |fault: Fault| Arc::new(fault.during_commit("store messages in the outbox"));
    match insert(pool, permits, stored, claim_ttl, limit).await {
        Ok(()) => vec![Ok(()); stored.len()],
        Err(fault) if stored.len() > 1 && fault.class() == Class::Permanent => {
            let mut answers = Vec::with_capacity(stored.len());
            for one in stored {
                answers.push(insert(pool, permits, std::slice::from_mut(one), claim_ttl, limit).await.map_err(during));
            }
            answers
        }
        Err(fault) => {
            let error = during(fault);
            vec![Err(error); stored.len()]
        }
    }
}

async fn insert<B: Backend>(
    pool: &Pool<B>,
    permits: &Semaphore,
    stored: &mut [Stored],
    claim_ttl: Duration,
    limit: Duration,
) -> Result<(), Fault> {
    let claimed_until = from_now(claim_ttl);
    stored.iter_mut().for_each(|stored| stored.claimed_until = claimed_until);
    let rows: Vec<_> = stored.iter().map(row).collect();
    let statement = async {
        let _permit = permits.acquire().await;
        B::insert_outbox_on_pool(pool, &rows, micros(claim_ttl)).await
    };
    within(limit, statement).await
}

const ATTEMPT: &str = "store a message in the outbox";

/// Returns the error of a message that was accepted before the stop of the emitter, or before the end of its runtime,
/// and was not stored.
pub(crate) fn closed() -> Error {
    Error::setup(ATTEMPT, "the emitter was stopped, or the runtime that it was started on has ended: emitter closed")
}

/// Returns the error of a message whose insert was in flight when the runtime of the emitter ended.
pub(crate) fn interrupted() -> Error {
    let source = "the runtime that the emitter was started on has ended during the insert".into();
    Error::Unknown { attempt: ATTEMPT.to_owned(), source }
}

/// Returns the error of a message whose insert did not begin in time. The message is not stored.
pub(crate) fn late() -> Error {
    let text = "it waited longer than database_timeout for its insert to begin";
    Fault(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))).during(ATTEMPT)
}
