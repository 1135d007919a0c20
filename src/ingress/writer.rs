//! One task writes: batches that arrive together share a transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use super::store::{self, Arrival};
use crate::error::Error;

/// How many batches wait for the writer; further calls wait to get in.
pub const MAX_QUEUED_BATCHES: usize = 256;

/// How long a call waits to get into the queue before it is answered UNAVAILABLE.
pub const MAX_QUEUE_WAIT: Duration = Duration::from_secs(30);

/// How many bytes of encoded events one transaction takes before no further batch joins it.
pub const MAX_GROUP_BYTES: usize = 16 << 20;

/// The rest between two transactions on a database that others write to as well, so that they get their turn.
const SHARED_REST: Duration = Duration::from_millis(2);

struct Batch {
    arrivals: Vec<Arrival>,
    rejected: u64,
    answer: oneshot::Sender<Result<(), Arc<Error>>>,
}

/// Why a batch was not kept, or not known to be.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The queue did not make room in time.
    QueueFull,
    /// The server is stopping.
    Stopping,
    /// The store failed.
    Store(Arc<Error>),
}

/// The way to the writer; when the last clone is dropped, the writer ends.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Batch>,
}

impl Writer {
    /// The handle, and the task that somebody has to run.
    pub(super) fn new(pool: SqlitePool, shared: bool) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, batches) = mpsc::channel(MAX_QUEUED_BATCHES);
        (Writer { queue }, write(pool, batches, shared))
    }

    /// Returns after the commit of the transaction that the batch is in.
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
            tracing::warn!(%error, batches = group.len(), "events were not kept");
        }
        for batch in group {
            // A caller that is gone does not need its answer.
            let _ = batch.answer.send(kept.clone());
        }
        if shared {
            tokio::time::sleep(SHARED_REST).await;
        }
    }
}

/// What is there already joins; nothing is waited for.
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
