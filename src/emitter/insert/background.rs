//! Publishing in the background, from a bounded queue.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::cloudevent::CloudEvent;
use crate::emitter::insert::Inserter;
use crate::heartbeat::Beat;
use crate::room::{Place, Room};
use crate::store::Backend;

/// Messages from the background that are stored at the same time.
const CONCURRENCY: usize = 64;

type Waiting = (CloudEvent, Place);

/// The queue of messages that wait to be stored in the background.
pub(crate) struct Background {
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    room: Room,
    task: TaskTracker,
}

impl Background {
    /// Makes a queue that takes nothing before [`start`](Self::start).
    pub(crate) fn new() -> Self {
        Background { queue: Mutex::new(None), room: Room::new(), task: TaskTracker::new() }
    }

    /// Starts to take messages, `capacity` of them at most.
    pub(crate) fn start<B: Backend>(&self, capacity: usize, inserter: Arc<Inserter<B>>, beat: Beat) {
        let (queue, waiting) = mpsc::channel(capacity);
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        self.task.spawn(run(inserter, waiting, beat));
    }

    /// Queues a message. Returns whether there was room for it.
    pub(crate) fn push(&self, event: CloudEvent) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.room.try_take(event.encoded_len());
        queue.as_ref().zip(place).is_some_and(|(queue, place)| queue.try_send((event, place)).is_ok())
    }

    /// Takes no more messages, and waits until the queued ones are stored. Returns whether that was before `deadline`.
    pub(crate) async fn stop(&self, deadline: Instant) -> bool {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.task.close();
        timeout_at(deadline, self.task.wait()).await.is_ok()
    }
}

async fn run<B: Backend>(inserter: Arc<Inserter<B>>, mut waiting: mpsc::Receiver<Waiting>, beat: Beat) {
    let mut running = tokio::task::JoinSet::new();
    while let Some((event, place)) = waiting.recv().await {
        if running.len() >= CONCURRENCY {
            let _busy = beat.busy();
            running.join_next().await;
        }
        let inserter = Arc::clone(&inserter);
        running.spawn(async move {
            if let Err(error) = inserter.publish(event).await {
                tracing::warn!(%error, "an asynchronous publish failed");
            }
            drop(place);
        });
    }
    while running.join_next().await.is_some() {}
}
