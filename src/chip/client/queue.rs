//! The queue of the client: accepts events, collects them into batches, and hands each its outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::isolate::send_batch;
use crate::chip::client::request::Requests;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::heartbeat::Beat;
use crate::room::Place;

/// Outcome of an event that the client accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct SendOutcome {
    /// Whether the server has the event.
    pub result: Result<(), SendError>,
    /// Whether the event was alone in its request, so that the error is about this event only.
    pub alone: bool,
    /// Time since the event was queued.
    pub elapsed: Duration,
    /// The event as it was sent, with its sequence number; `None` when the transport panicked over it.
    pub event: Option<CloudEvent>,
}

/// Function that the client calls exactly once for each event that it accepted.
pub type Callback = Box<dyn FnOnce(SendOutcome) + Send>;

/// An event in the queue or in a request, with its callback. Dropping it reports [`SendError::Shutdown`].
pub(crate) struct Queued {
    pub(crate) event: Option<CloudEvent>,
    /// Size of the event.
    pub(crate) bytes: usize,
    /// Number of this attempt.
    pub(crate) attempt: i32,
    send_before: Option<Instant>,
    queued_at: Instant,
    callback: Option<Callback>,
    /// The event's share of the queue's bytes, which it keeps while it is sent.
    _place: Place,
}

impl Queued {
    pub(crate) fn new(
        (event, bytes): (CloudEvent, usize),
        place: Place,
        attempt: i32,
        send_before: Option<Instant>,
        callback: Option<Callback>,
    ) -> Self {
        Queued { event: Some(event), bytes, attempt, send_before, queued_at: Instant::now(), callback, _place: place }
    }

    /// Drops the event without its callback, because the caller gets an error.
    pub(crate) fn refuse(mut self) {
        self.callback = None;
    }

    /// Returns the event with its result.
    pub(crate) fn resolved(self, result: Result<(), SendError>, alone: bool) -> Resolved {
        Resolved { queued: self, result, alone }
    }

    /// Returns whether a request would begin too late.
    pub(crate) fn is_late(&self) -> bool {
        self.send_before.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn call(&mut self, result: Result<(), SendError>, alone: bool) {
        if let Some(callback) = self.callback.take() {
            let sent = SendOutcome { result, alone, elapsed: self.queued_at.elapsed(), event: self.event.take() };
            if catch_unwind(AssertUnwindSafe(|| callback(sent))).is_err() {
                tracing::error!("the callback of an event panicked");
            }
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.call(Err(SendError::Shutdown), false);
    }
}

/// An event whose result is known.
pub(crate) struct Resolved {
    queued: Queued,
    result: Result<(), SendError>,
    alone: bool,
}

impl Resolved {
    /// Calls the callback.
    pub(crate) fn report(mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.queued.call(result, self.alone);
    }
}

/// Collects queued events into batches and sends each batch in a task of its own.
pub(crate) struct Batcher {
    pub(crate) waiting: mpsc::Receiver<Queued>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) draining: CancellationToken,
    pub(crate) abandoned: CancellationToken,
    pub(crate) beat: Option<Beat>,
}

impl Batcher {
    /// Sends batches until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let busy = self.beat.as_ref().map(Beat::busy);
            let slot = tokio::select! {
                slot = Arc::clone(&self.slots).acquire_owned() => slot,
                // Dropping the batch and the queue calls the callback of every event.
                () = self.abandoned.cancelled() => return,
            };
            let Ok(slot) = slot else { return };
            drop(busy);
            let requests = Arc::clone(&self.requests);
            // The slots bound the tasks, apart from the short time of the callbacks.
            self.tasks.spawn(async move {
                let resolved = send_batch(&requests, batch).await;
                drop(slot);
                resolved.into_iter().for_each(Resolved::report);
            });
        }
    }

    /// Returns the next batch when it is full, as old as the interval, or the last one; `None` when the queue is closed
    /// and empty.
    async fn next_batch(&mut self) -> Option<Vec<Queued>> {
        let first = loop {
            tokio::select! {
                biased;
                queued = self.waiting.recv() => break queued?,
                () = self.draining.cancelled(), if !self.waiting.is_closed() => self.waiting.close(),
            }
        };
        let full = self.requests.sizing.limit();
        let due = from_now(self.requests.config().batch_interval);
        let mut batch = Vec::with_capacity(full.min(self.waiting.len() + 1));
        batch.push(first);
        while batch.len() < full {
            let missing = full - batch.len();
            let received = tokio::select! {
                biased;
                received = self.waiting.recv_many(&mut batch, missing) => received,
                () = self.draining.cancelled(), if !self.waiting.is_closed() => {
                    self.waiting.close();
                    continue;
                }
                () = tokio::time::sleep_until(due) => 0,
            };
            if received == 0 {
                break;
            }
        }
        Some(batch)
    }
}
