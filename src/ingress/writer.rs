//! The task that writes all batches. Batches that arrive together share a transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use super::store::{self, Arrival};
use crate::error::Error;

/// The maximum number of batches in the queue of the writer. Further calls wait for a free place.
pub const MAX_QUEUED_BATCHES: usize = 256;

/// The longest time that a call waits for a place in the queue. Then the server answers UNAVAILABLE.
pub const MAX_QUEUE_WAIT: Duration = Duration::from_secs(30);

/// The size of the encoded events of one transaction, in bytes, from which no further batch joins.
pub const MAX_GROUP_BYTES: usize = 16 << 20;

/// The pause between two transactions on a shared database, so that other writers get their turn.
const SHARED_REST: Duration = Duration::from_millis(2);

struct Batch {
    arrivals: Vec<Arrival>,
    rejected: u64,
    answer: oneshot::Sender<Result<(), Arc<Error>>>,
}

/// The reason why a batch was not kept, or why its outcome is unknown.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The queue had no free place within [`MAX_QUEUE_WAIT`].
    QueueFull,
    /// The server is stopping.
    Stopping,
    /// The store failed.
    Store(Arc<Error>),
}

/// The handle of the writer. The writer ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Batch>,
}

impl Writer {
    /// Returns the handle, and the task of the writer, which the caller must run.
    pub(super) fn new(pool: SqlitePool, shared: bool) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, batches) = mpsc::channel(MAX_QUEUED_BATCHES);
        (Writer { queue }, write(pool, batches, shared))
    }

    /// Queues a batch, and returns after the commit of its transaction.
    pub(super) async fn keep(&self, arrivals: Vec<Arrival>, rejected: u64) -> Result<(), NotKept> {
        if arrivals.is_empty() && rejected == 0 {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let batch = Batch { arrivals, rejected, answer };
        self.queue.send_timeout(batch, MAX_QUEUE_WAIT).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => NotKept::QueueFull,
            SendTimeoutError::Closed(_) => NotKept::Stopping,
        })?;
        match answered.await {
            Ok(kept) => kept.map_err(NotKept::Store),
            Err(_) => Err(NotKept::Stopping),
        }
    }
}

async fn write(pool: SqlitePool, mut batches: mpsc::Receiver<Batch>, shared: bool) {
    while let Some(first) = batches.recv().await {
        let group = group_from(first, &mut batches);
        let arrivals: Vec<&Arrival> = group.iter().flat_map(|batch| &batch.arrivals).collect();
        let rejected = group.iter().map(|batch| batch.rejected).sum();
        let kept = store::keep(&pool, &arrivals, rejected).await.map_err(Arc::new);
        if let Err(error) = &kept {
            tracing::warn!(%error, batches = group.len(), "the ingress server could not keep events");
        }
        for batch in group {
            // The send fails only when the caller is gone. Then the caller needs no answer.
            let _ = batch.answer.send(kept.clone());
        }
        if shared {
            tokio::time::sleep(SHARED_REST).await;
        }
    }
}

/// Collects the batches that are in the queue already, without waiting for more.
fn group_from(first: Batch, batches: &mut mpsc::Receiver<Batch>) -> Vec<Batch> {
    let size = |batch: &Batch| batch.arrivals.iter().map(|arrival| arrival.encoded.len()).sum::<usize>();
    let mut bytes = size(&first);
    let mut group = vec![first];
    while bytes < MAX_GROUP_BYTES {
        let Ok(batch) = batches.try_recv() else { break };
        bytes += size(&batch);
        group.push(batch);
    }
    group
}
