//! The batch client: its start, its entrance and its stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::breaker::{Breaker, BreakerReport, BreakerState};
use crate::chip::client::config::BatchConfig;
use crate::chip::client::queue::{Batcher, Callback, Queued};
use crate::chip::client::request::Requests;
use crate::chip::client::seqnum::Sequences;
use crate::chip::error::ConfigError;
use crate::chip::metrics::BatchMetrics;
use crate::chip::transport::Transport;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::heartbeat::Beat;
use crate::room::Room;
use crate::service::StopReport;

/// Collects events into batches and publishes them. It numbers the events, splits requests by size, bisects refused
/// ones, and calls exactly one callback for each accepted event.
///
/// The client sends a batch when it is full, or when its first event is as old as
/// [`batch_interval`](BatchConfig::batch_interval). Up to [`max_concurrent_sends`](BatchConfig::max_concurrent_sends)
/// batches are in flight, so batches may overtake each other. When the server is slow, the queue fills and
/// [`queue`](Self::queue) refuses events. The queue is full with [`message_buffer`](BatchConfig::message_buffer)
/// events, or with [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES).
///
/// Dropping the client without [`stop`](Self::stop) calls the callback of every waiting event with
/// [`SendError::Shutdown`].
pub struct BatchClient {
    queue: mpsc::Sender<Queued>,
    room: Room,
    waiting: Mutex<Option<mpsc::Receiver<Queued>>>,
    config: BatchConfig,
    requests: Arc<Requests>,
    sequences: Arc<Sequences>,
    /// Refuses new events; the client sends the queued ones.
    draining: CancellationToken,
    /// Ends all sending.
    abandoned: CancellationToken,
    tasks: TaskTracker,
    closed: AtomicBool,
}

impl BatchClient {
    /// Returns a client that is not started: it accepts events, up to its buffer, and sends none.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`].
    pub fn new(transport: Arc<dyn Transport>, config: BatchConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let (queue, waiting) = mpsc::channel(config.message_buffer.get());
        let breaker = Breaker::new(config.breaker);
        let abandoned = CancellationToken::new();
        let metrics = BatchMetrics::new(config.client_name.as_deref());
        let sequences = Arc::new(Sequences::new());
        let numbers = Arc::clone(&sequences);
        let requests = Requests::new(transport, config.clone(), breaker, abandoned.clone(), metrics, numbers);
        Ok(BatchClient {
            queue,
            room: Room::new(),
            waiting: Mutex::new(Some(waiting)),
            config,
            requests: Arc::new(requests),
            sequences,
            draining: CancellationToken::new(),
            abandoned,
            tasks: TaskTracker::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Returns the options of the client.
    #[must_use]
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// Begins to send. A second call does nothing. Call it inside a Tokio runtime.
    pub fn start(&self) {
        self.start_watched(None);
    }

    /// Begins to send, with a heartbeat that stops while a batch waits for a slot.
    pub(crate) fn start_watched(&self, beat: Option<Beat>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            self.requests.metrics().config_info(&self.config);
            let batcher = Batcher {
                waiting,
                requests: Arc::clone(&self.requests),
                slots: Arc::new(Semaphore::new(self.config.max_concurrent_sends.get())),
                tasks: self.tasks.clone(),
                draining: self.draining.clone(),
                abandoned: self.abandoned.clone(),
                beat,
            };
            self.tasks.spawn(batcher.run());
            let (failures, stopping) = (Arc::clone(self.requests.failures()), self.draining.clone());
            self.tasks.spawn(async move { failures.run(stopping).await });
        }
    }

    /// Queues an event without waiting. After `Ok` the client calls the callback exactly once, also when it stops.
    ///
    /// # Errors
    ///
    /// [`SendError::BufferFull`] and [`SendError::Shutdown`]. The client drops the callback then, and the number of the
    /// event is a gap in the sequence.
    pub fn queue(&self, event: CloudEvent, callback: Option<Callback>) -> Result<(), SendError> {
        self.queue_until(event, 1, None, callback)
    }

    /// Queues attempt number `attempt` of an event, whose request must begin before `send_before`.
    pub(crate) fn queue_until(
        &self,
        mut event: CloudEvent,
        attempt: i32,
        send_before: Option<Instant>,
        callback: Option<Callback>,
    ) -> Result<(), SendError> {
        if self.draining.is_cancelled() {
            return Err(SendError::Shutdown);
        }
        self.sequences.stamp(&mut event);
        let bytes = event.encoded_len();
        let Some(place) = self.room.try_take(bytes) else { return Err(SendError::BufferFull) };
        match self.queue.try_send(Queued::new((event, bytes), place, attempt, send_before, callback)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(queued)) => {
                queued.refuse();
                Err(SendError::BufferFull)
            }
            Err(mpsc::error::TrySendError::Closed(queued)) => {
                queued.refuse();
                Err(SendError::Shutdown)
            }
        }
    }

    pub(crate) fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Returns the number of events that the queue would take now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.queue.capacity()
    }

    /// Returns the bytes that the queue would take now, of [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES). Events in
    /// requests count as queued.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.room.free()
    }

    /// Returns the state of the breaker. Without a breaker it is closed, except while the server asks for a pause.
    #[must_use]
    pub fn breaker_state(&self) -> BreakerState {
        self.requests.breaker().state()
    }

    /// Returns the time since the breaker was last closed.
    #[must_use]
    pub fn breaker_open_for(&self) -> Duration {
        self.requests.breaker().open_for()
    }

    /// Returns the breaker with its endpoint and its last error, unless it is closed.
    #[must_use]
    pub fn open_breaker(&self) -> Option<BreakerReport> {
        self.requests.breaker().report(self.requests.transport().destination())
    }

    /// Returns how often the breaker opened within [`FLAP_WINDOW`], if that was [`FLAP_OPENINGS`] times or more.
    ///
    /// [`FLAP_OPENINGS`]: crate::chip::FLAP_OPENINGS
    /// [`FLAP_WINDOW`]: crate::chip::FLAP_WINDOW
    #[must_use]
    pub fn breaker_flaps(&self) -> Option<usize> {
        self.requests.breaker().flapping()
    }

    /// Returns the most events of a request now: the batch size, or fewer when the destination is too slow for it.
    #[must_use]
    pub fn request_size(&self) -> usize {
        self.requests.sizing.limit()
    }

    /// Stops within [`BatchConfig::shutdown_timeout`], as [`stop`](Self::stop) does.
    ///
    /// # Cancel safety
    ///
    /// As [`stop`](Self::stop).
    pub async fn close(&self) -> StopReport {
        self.stop(self.config.shutdown_timeout).await
    }

    /// Refuses new events, sends the queued ones, calls the callbacks and closes the transport, all within `limit`.
    ///
    /// The sending ends [`ABANDON_GRACE`] before the limit. Events that are left then get [`SendError::Shutdown`]. A
    /// second stop does nothing more. Without a start it returns at once.
    ///
    /// # Cancel safety
    ///
    /// Safe: call it again to wait for the rest.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        let deadline = from_now(limit);
        let send_until = deadline.checked_sub(ABANDON_GRACE.min(limit / 2)).unwrap_or(deadline);
        self.draining.cancel();
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.tasks.close();
        let mut complete = timeout_at(send_until, self.tasks.wait()).await.is_ok();
        if !complete {
            tracing::warn!("timed out waiting for shutdown to finish, force closing");
            self.abandoned.cancel();
            // The remaining tasks only call callbacks, which wait for nothing.
            let _ = timeout_at(deadline, self.tasks.wait()).await;
        }
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.sequences.clear();
            self.requests.failures().log_the_rest();
            complete &= timeout_at(deadline, self.requests.transport().close()).await.is_ok();
        }
        StopReport::in_time(complete)
    }
}

/// Most of a stop's time that is kept for the last callbacks and for closing the transport.
pub const ABANDON_GRACE: Duration = Duration::from_millis(250);

impl Drop for BatchClient {
    fn drop(&mut self) {
        self.draining.cancel();
        self.abandoned.cancel();
    }
}

impl std::fmt::Debug for BatchClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchClient").field("config", &self.config).finish_non_exhaustive()
    }
}
