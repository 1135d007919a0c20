//! Emits that share their inserts.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::outbox::{Stored, micros, row};
use super::settle::within;
use crate::error::Error;
use crate::store::{Backend, Class, Fault};

/// What an emit hears of its insert.
pub(super) type Inserted = Result<Uuid, Arc<Error>>;

/// An emit that waits for its insert.
pub(super) struct Request {
    pub(super) stored: Stored,
    pub(super) reply: oneshot::Sender<Inserted>,
}

/// The queue of inserts.
pub(super) struct InsertQueue {
    sender: Mutex<Option<mpsc::Sender<Request>>>,
    weak: mpsc::WeakSender<Request>,
    waiting: Mutex<mpsc::Receiver<Request>>,
    capacity: usize,
}

impl InsertQueue {
    pub(super) fn new(batch_size: usize) -> Self {
        let capacity = batch_size.saturating_mul(200).clamp(10_000, 1_000_000);
        let (sender, waiting) = mpsc::channel(capacity);
        InsertQueue {
            weak: sender.downgrade(),
            sender: Mutex::new(Some(sender)),
            waiting: Mutex::new(waiting),
            capacity,
        }
    }

    /// Waits for room and queues; `false` when the queue is closed. Until it is queued, the caller may give up.
    pub(super) async fn push(&self, request: Request) -> bool {
        match self.weak.upgrade() {
            Some(sender) => sender.send(request).await.is_ok(),
            None => false,
        }
    }

    /// Lets the workers finish what is queued and end.
    pub(super) async fn close(&self) {
        self.sender.lock().await.take();
    }

    pub(super) fn fill_ratio(&self) -> f64 {
        let free = self.weak.upgrade().map_or(self.capacity, |sender| sender.capacity());
        super::metrics::whole(self.capacity - free) / super::metrics::whole(self.capacity)
    }

    /// The next requests that share an insert: what is there, and what comes within `linger`. `None` when it is closed and empty.
    pub(super) async fn next(&self, full: usize, linger: Duration) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock().await;
        let mut batch = Vec::new();
        waiting.recv_many(&mut batch, full).await;
        let due = Instant::now() + linger;
        while !batch.is_empty() && batch.len() < full && !linger.is_zero() {
            match tokio::time::timeout_at(due, waiting.recv()).await {
                Ok(Some(request)) => batch.push(request),
                Ok(None) | Err(_) => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// Inserts messages in one statement; if that fails because of one of them, each by itself.
///
/// Answers in the order of the messages.
pub(super) async fn insert_all<B: Backend>(
    pool: &Pool<B>,
    stored: &mut [Stored],
    hold: Duration,
    limit: Duration,
) -> Vec<Result<(), Arc<Error>>> {
    let during = |fault: Fault| Arc::new(fault.during_commit("store messages in the outbox"));
    match insert(pool, stored, hold, limit).await {
        Ok(()) => vec![Ok(()); stored.len()],
        Err(fault) if stored.len() > 1 && fault.class() == Class::Permanent => {
            let mut answers = Vec::with_capacity(stored.len());
            for one in stored {
                answers.push(insert(pool, std::slice::from_mut(one), hold, limit).await.map_err(during));
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
    stored: &mut [Stored],
    hold: Duration,
    limit: Duration,
) -> Result<(), Fault> {
    let payloads: Vec<Vec<u8>> = stored.iter().map(|stored| stored.event.encode()).collect();
    let claimed_until = Instant::now() + hold;
    stored.iter_mut().for_each(|stored| stored.claimed_until = claimed_until);
    let rows: Vec<_> = stored.iter().zip(&payloads).map(|(stored, payload)| row(stored, payload)).collect();
    let statement = async { B::insert_outbox_in(&mut *pool.acquire().await?, &rows, micros(hold)).await };
    within(limit, statement).await
}
