//! Emits that share their inserts.

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
use crate::store::Backend;

/// The bounds of a [`Sender`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderConfig {
    /// How many events may wait or be under way; an emit beyond that waits for room.
    pub queue_events: NonZeroU32,
    /// How many bytes their values may have together; an emit beyond that waits for room. A value that is larger than this waits until
    /// nothing else is there.
    pub queue_bytes: NonZeroU32,
    /// How many events one group has at most; cut to [`MAX_EMIT_EVENTS`](crate::MAX_EMIT_EVENTS).
    pub group_events: NonZeroU32,
    /// How many bytes the values of a group have at most; one event is always a group.
    pub group_bytes: NonZeroU32,
    /// How many groups of unnamed events commit at once, and how many of named ones: each takes a connection. SQLite has one writer, and takes
    /// one group at a time whatever this says.
    pub concurrent_groups: NonZeroU32,
    /// How long a group of named events waits for somebody else's lock before its events go one by one. Milliseconds are what counts; at
    /// least one.
    pub lock_wait: Duration,
    /// How long a named event is tried again when somebody else holds its name or its answer was lost. Then it is contention, or unknown.
    pub retry_for: Duration,
}

impl Default for SenderConfig {
    /// 10,000 events and 64 MiB queued; groups of 1,000 events and 4 MiB; two groups at once; 50 ms for a lock; 30 s of retries.
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

/// A handle that groups the emits of many tasks into few inserts: far more events a second than one commit for each.
///
/// Use it where many tasks of a process emit at once, on a pool. Each caller returns after its own event is committed. Nothing is delayed on
/// purpose: a group is what came while the groups before it were committing. Clones are the same sender. For many events of *one* caller,
/// [`emit_all`](crate::emit_all) is the way, and for an event of a transaction, [`emit`](crate::emit).
///
/// An event whose group fails because of another event is not affected: the group is taken apart. Events with and without names are never in
/// one group, so an unnamed one waits for nobody's name; a named one whose name, or whose group mate's name, is held by an open
/// transaction is tried by itself, and delays no others.
///
/// Tasks of several tokio runtimes may share a sender. What one runtime was sending when it ended is sent again if it
/// is named, and else unknown to its callers; what waited goes on with the runtimes that are left.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
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

/// What a sender that was stopped leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SenderStopped {
    /// How many events had no outcome at the deadline. Those that were still waiting were refused, and are nowhere; those under way are told
    /// to their callers when it is known.
    pub left: usize,
}

/// How often a named event is sent whose runtime ends in the middle of that, before the answer is unknown.
const MAX_TAKEOVERS: usize = 3;

impl<B: Backend> Sender<B> {
    /// A sender with the default bounds. It needs no start; it has no task while nothing is emitted.
    #[must_use]
    pub fn new(pool: Pool<B>) -> Self {
        Sender::with(pool, SenderConfig::default())
    }

    /// A sender with these bounds.
    ///
    /// The pool should have a connection for each of twice [`SenderConfig::concurrent_groups`], and some for named events that go by themselves.
    #[must_use]
    pub fn with(pool: Pool<B>, config: SenderConfig) -> Self {
        Sender { shared: Arc::new(Shared::new(pool, config)) }
    }

    /// Puts one event into a recipient's eventbox, as [`emit`](crate::emit) on a pool does, and returns when that is committed.
    ///
    /// Waits for room when the queue is full. The order in which one task emits, one after the other or all at once, is the order of listing.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] when a limit of [`Event`] is broken, or the sender was stopped; nothing was emitted. [`Error::Unknown`] when the
    /// connection was lost: an unnamed event may be there or not. A named one was tried again first, for [`SenderConfig::retry_for`]; in rare
    /// cases it is then told to be a duplicate of itself. Contention, transient and database errors: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future that still waits for room has emitted nothing. After that the event is emitted without anybody hearing of it.
    pub async fn emit(&self, to: &Recipient, event: Event) -> Result<Receipt> {
        check(to, &event)?;
        let is_named = event.name().is_some();
        let mut id = None;
        for attempt in 1..=MAX_TAKEOVERS {
            let Some(room) = self.shared.room(event.value().len()).await else { break };
            // Minted when there is room and before anything else is waited for, so that ids are in the order of the
            // queue.
            let id = *id.get_or_insert_with(EventId::mint);
            let (request, answer) = Request::new(to.clone(), event.clone(), id, room);
            self.shared.push(request);
            match self.shared.answer(is_named, answer).await {
                Ok(answer) => return answer,
                // Only the end of a runtime drops a request unanswered. A named event is sent again: its id tells it
                // from a copy.
                Err(_) if is_named && attempt < MAX_TAKEOVERS => {}
                Err(_) => {
                    let source = "the runtime that sent it was shut down in the middle of that".into();
                    return Err(Error::Unknown { attempt: format!("emit to {to}"), source });
                }
            }
        }
        Err(Error::misuse(format!("emit to {to}"), Misuse::Stopped { what: "sender" }))
    }

    /// Takes no more events and waits until those that it has are committed, until the deadline.
    ///
    /// Callers that wait for room are refused at once. Stopping again waits again.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the sender closed; what is queued is sent nevertheless.
    pub async fn stop(&self, deadline: Duration) -> SenderStopped {
        self.shared.close();
        let until = Instant::now().checked_add(deadline);
        let idle = self.shared.idle();
        match until {
            Some(until) => {
                if tokio::time::timeout_at(until, idle).await.is_err() {
                    return SenderStopped { left: self.shared.abandon() };
                }
            }
            None => idle.await,
        }
        SenderStopped { left: 0 }
    }
}
