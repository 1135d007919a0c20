//! The batch client: a bounded queue in front of a transport.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::breaker::{Breaker, BreakerState};
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

/// Collects events into batches and publishes them, with sequence numbers, splitting by size, bisecting, and exactly one callback per
/// accepted event.
///
/// Batches are sent when they are full or when their first event is [`batch_interval`](BatchConfig::batch_interval) old. Up to
/// [`max_concurrent_sends`](BatchConfig::max_concurrent_sends) are on their way at once, so batches may overtake each other. When the
/// server is slow the queue fills, and [`queue`](Self::queue) refuses: that is the back-pressure. Full is what has
/// [`message_buffer`](BatchConfig::message_buffer) events, or [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES).
///
/// Dropping the client without [`stop`](Self::stop) gives every waiting event its callback with [`SendError::Shutdown`].
pub struct BatchClient {
    queue: mpsc::Sender<Queued>,
    room: Room,
    waiting: Mutex<Option<mpsc::Receiver<Queued>>>,
    config: BatchConfig,
    requests: Arc<Requests>,
    sequences: Arc<Sequences>,
    /// No new events; what is queued is sent.
    draining: CancellationToken,
    /// Nothing is sent any more.
    abandoned: CancellationToken,
    tasks: TaskTracker,
    closed: AtomicBool,
}

impl BatchClient {
    /// A client that is not started: it accepts events, up to its buffer, and sends none.
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

    /// The options it runs with.
    #[must_use]
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// Begins to send. A second call does nothing.
    ///
    /// Must be called in a Tokio runtime.
    pub fn start(&self) {
        self.start_watched(None);
    }

    /// The same, with a heart that is seen when batches find no slot.
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

    /// Accepts an event to be sent, without waiting. With `Ok`, the callback will run exactly once, also when the client is stopped.
    ///
    /// # Errors
    ///
    /// [`SendError::BufferFull`] and [`SendError::Shutdown`]; then the callback is dropped and the event's number is a gap in the
    /// sequence.
    pub fn queue(&self, event: CloudEvent, callback: Option<Callback>) -> Result<(), SendError> {
        self.queue_until(event, 1, None, callback)
    }

    /// The same for an attempt to send an event that must not be sent when it is too late for that.
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
        let Some(place) = self.room.try_take(event.encoded_len()) else { return Err(SendError::BufferFull) };
        match self.queue.try_send(Queued::new(event, place, attempt, send_before, callback)) {
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

    /// How many bytes of events the queue would take now, of [`MAX_QUEUE_BYTES`](crate::chip::MAX_QUEUE_BYTES). What is being sent counts, too.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.room.free()
    }

    /// What the breaker lets through now. Without one it is closed, except for as long as the server asks to be left alone.
    #[must_use]
    pub fn breaker_state(&self) -> BreakerState {
        self.requests.breaker().state()
    }

    /// Returns the time since the breaker was last closed.
    #[must_use]
    pub fn breaker_open_for(&self) -> Duration {
        self.requests.breaker().open_for()
    }

    /// How often the breaker opened of late, when that is so often that it flaps: [`FLAP_OPENINGS`] times or more within
    /// [`FLAP_WINDOW`].
    ///
    /// [`FLAP_OPENINGS`]: crate::chip::FLAP_OPENINGS
    /// [`FLAP_WINDOW`]: crate::chip::FLAP_WINDOW
    #[must_use]
    pub fn breaker_flaps(&self) -> Option<usize> {
        self.requests.breaker().flapping()
    }

    /// The most events of a request now: the batch size, or fewer when the destination does not answer so many in time.
    #[must_use]
    pub fn request_size(&self) -> usize {
        self.requests.sizing.limit()
    }

    /// [`stop`](Self::stop) within [`BatchConfig::shutdown_timeout`].
    ///
    /// # Cancel safety
    ///
    /// As [`stop`](Self::stop).
    pub async fn close(&self) -> StopReport {
        self.stop(self.config.shutdown_timeout).await
    }

    /// Accepts nothing more, sends what is queued, lets the callbacks run and closes the transport, all within `limit`.
    ///
    /// What could not be sent shortly before that, at most [`ABANDON_GRACE`], gets its callback with [`SendError::Shutdown`]. A second
    /// stop does nothing more; without a start it returns at once.
    ///
    /// # Cancel safety
    ///
    /// Safe: the stop goes on; call it again to wait for it.
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
            // The tasks that are left only run callbacks, which wait for nothing.
            let _ = timeout_at(deadline, self.tasks.wait()).await;
        }
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.sequences.clear();
            self.requests.failures().tell_the_rest();
            complete &= timeout_at(deadline, self.requests.transport().close()).await.is_ok();
        }
        StopReport::in_time(complete)
    }
}

/// The most of a stop's time that is kept for the last callbacks and the closing of the transport, when there is too much to send.
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
