//! The `Sender`: emits of many tasks that share their inserts.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::check;
use super::sender_groups::{Request, Shared};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::event::receipt::Receipt;
use crate::eventbox::event::{Event, EventId};
use crate::recipient::Recipient;
use crate::service::StopReport;
use crate::store::Backend;

/// Bounds of a [`Sender`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SenderConfig {
    /// Most events that are queued or in flight; a further emit waits for room.
    pub queue_events: NonZeroU32,
    /// Most bytes of the values of these events together; a further emit waits for room. A larger value waits until the
    /// sender holds no other event.
    pub queue_bytes: NonZeroU32,
    /// Most events of one group; cut to [`MAX_EMIT_EVENTS`](crate::limits::MAX_EMIT_EVENTS).
    pub group_events: NonZeroU32,
    /// Most bytes of the values of a group; a single event may be larger.
    pub group_bytes: NonZeroU32,
    /// Number of groups of unnamed events that commit at once, and of groups of named events: each group takes a
    /// connection. SQLite has one writer and always takes one group at a time.
    pub concurrent_groups: NonZeroU32,
    /// Time for which a group of named events waits for another transaction's lock. Then its events go singly. Rounded
    /// to milliseconds; at least 1 ms.
    pub lock_wait: Duration,
    /// Time for which the sender retries a named event whose name another transaction holds, or whose answer was lost.
    /// Then the caller gets contention, or unknown.
    pub retry_for: Duration,
}

impl Default for SenderConfig {
    /// Returns: 10,000 events and 64 MiB queued; groups of 1,000 events and 4 MiB; two groups at once; 50 ms for a
    /// lock; 30 s of retries.
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        SenderConfig {
            queue_events: number(10_000),
            queue_bytes: number(64 << 20),
            group_events: number(1_000),
            group_bytes: number(4 << 20),
            concurrent_groups: number(2),
            lock_wait: Duration::from_millis(50),
            retry_for: Duration::from_secs(30),
        }
    }
}

impl SenderConfig {
    /// Sets the most events that are queued or in flight.
    #[must_use]
    pub fn with_queue_events(self, queue_events: NonZeroU32) -> Self {
        SenderConfig { queue_events, ..self }
    }

    /// Sets the most bytes of these events together.
    #[must_use]
    pub fn with_queue_bytes(self, queue_bytes: NonZeroU32) -> Self {
        SenderConfig { queue_bytes, ..self }
    }

    /// Sets the most events of one group.
    #[must_use]
    pub fn with_group_events(self, group_events: NonZeroU32) -> Self {
        SenderConfig { group_events, ..self }
    }

    /// Sets the most bytes of a group.
    #[must_use]
    pub fn with_group_bytes(self, group_bytes: NonZeroU32) -> Self {
        SenderConfig { group_bytes, ..self }
    }

    /// Sets the number of groups that commit at once.
    #[must_use]
    pub fn with_concurrent_groups(self, concurrent_groups: NonZeroU32) -> Self {
        SenderConfig { concurrent_groups, ..self }
    }

    /// Sets the time for which a group of named events waits for a lock.
    #[must_use]
    pub fn with_lock_wait(self, lock_wait: Duration) -> Self {
        SenderConfig { lock_wait, ..self }
    }

    /// Sets the time for which a named event is retried.
    #[must_use]
    pub fn with_retry_for(self, retry_for: Duration) -> Self {
        SenderConfig { retry_for, ..self }
    }
}

/// Groups the emits of many tasks into few inserts, for far more events a second than with one commit each.
///
/// Use it where many tasks of a process emit at once, on a pool. Each caller returns after its own event is committed.
/// The sender adds no delay: a group holds the events that arrived while earlier groups were committing. Clones are the
/// same sender. For many events of *one* caller use [`emit_all`](crate::emit_all), and for an event in a transaction
/// [`emit`](crate::emit).
///
/// When one event makes its group fail, the sender takes the group apart, and the other events are emitted. Named and
/// unnamed events never share a group on Postgres, so an unnamed event never waits for a name. When an open transaction
/// holds a name of a group, the sender retries the events of that group singly, and later groups are not delayed.
///
/// Tasks of several tokio runtimes may share a sender. When a runtime ends in the middle of sending, its named events
/// are sent again; for its unnamed events the callers get [`Error::Unknown`]. The remaining runtimes send the queued
/// events.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
/// use eventbox::{Emitted, Event, Recipient, Sender};
///
/// let sender = Sender::new(pool);
/// let mut tasks = tokio::task::JoinSet::new();
/// for number in 0..100 {
///     let sender = sender.clone();
///     tasks.spawn(async move {
///         let airport = Recipient::new("airport", "JFK")?;
///         sender.emit(&airport, Event::new(format!("flight {number}"))).await
///     });
/// }
/// for receipt in tasks.join_all().await {
///     assert_eq!(receipt?, Emitted::Added);
/// }
/// assert_eq!(sender.stop(Duration::from_secs(10)).await.left, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Sender<B: Backend> {
    shared: Arc<Shared<B>>,
}

impl<B: Backend> Clone for Sender<B> {
    fn clone(&self) -> Self {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

/// Number of times a named event is sent whose runtime ends in the middle, before the sender returns
/// [`Error::Unknown`].
const MAX_TAKEOVERS: usize = 3;

impl<B: Backend> Sender<B> {
    /// Returns a sender with the default bounds. It needs no start, and has no task while no event is queued.
    #[must_use]
    pub fn new(pool: Pool<B>) -> Self {
        Sender::with(pool, SenderConfig::default())
    }

    /// Returns a sender with these bounds.
    ///
    /// The pool should have two times [`SenderConfig::concurrent_groups`] connections, and some for named events that
    /// go singly.
    #[must_use]
    pub fn with(pool: Pool<B>, config: SenderConfig) -> Self {
        Sender { shared: Arc::new(Shared::new(pool, config)) }
    }

    /// Puts one event into a recipient's eventbox, as [`emit`](crate::emit) on a pool does, and returns after the
    /// commit.
    ///
    /// Waits for room when the queue is full. The order of one task's emits, in sequence or concurrent, is the order of
    /// listing.
    ///
    /// # Errors
    ///
    /// * [`Error::Misuse`] when the event breaks a limit of [`Event`], or the sender was stopped; the event was not
    ///   emitted.
    /// * [`Error::Unknown`] when the connection was lost: an unnamed event may exist or not. A named event was retried
    ///   first, for [`SenderConfig::retry_for`]; in rare cases the retry reports `Duplicate` for the event it added
    ///   itself.
    /// * Contention, transient and database errors: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped while it waits for room has emitted nothing. After that the event is emitted, and its
    /// result is lost.
    pub async fn emit(&self, to: &Recipient, event: Event) -> Result<Receipt> {
        check(to, &event)?;
        let is_named = event.name().is_some();
        let mut id = None;
        for attempt in 1..=MAX_TAKEOVERS {
            let Some(room) = self.shared.room(event.value().len()).await else { break };
            // The id is minted as soon as there is room and before any other wait, so that ids are in the order of the
            // queue.
            let id = *id.get_or_insert_with(EventId::mint);
            let (request, answer) = Request::new(to.clone(), event.clone(), id, room);
            self.shared.push(request);
            match self.shared.answer(is_named, answer).await {
                Ok(answer) => return answer,
                // Only the end of a runtime drops a request without an answer. A named event is sent again: its id
                // tells it from a copy.
                Err(_) if is_named && attempt < MAX_TAKEOVERS => {}
                Err(_) => {
                    let source = "the runtime that sent it was shut down in the middle of that".into();
                    return Err(Error::Unknown { attempt: format!("emit to {to}"), source });
                }
            }
        }
        Err(Error::misuse(format!("emit to {to}"), Misuse::Stopped { what: "sender" }))
    }

    /// Takes no more events and waits until the sender has committed those that it has, at most for `limit`.
    ///
    /// The sender refuses callers that wait for room at once. A second stop waits again. [`StopReport::left`] counts
    /// the events without an outcome: those that still waited were refused and are nowhere; the callers of those in
    /// flight get the outcome when it is known.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the sender closed; it still sends its queued events.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.shared.close();
        let until = Instant::now().checked_add(limit);
        let idle = self.shared.idle();
        match until {
            Some(until) => {
                if tokio::time::timeout_at(until, idle).await.is_err() {
                    return StopReport { complete: false, left: self.shared.abandon(), ..StopReport::COMPLETE };
                }
            }
            None => idle.await,
        }
        StopReport::COMPLETE
    }
}
