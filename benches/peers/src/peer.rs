//! The interface to a peer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::Notify;

use crate::event::{Event, now_us};

/// Number of connections of the senders, one for each task of W1.
const SENDING_CONNECTIONS: u32 = 16;

/// Number of concurrent handlers of a peer with a handler for each event.
pub(crate) const HANDLERS: usize = 16;

/// Number of connections of a consumer: one for each handler, and some for the peer's own work.
pub(crate) const CONSUMING_CONNECTIONS: u32 = 24;

/// Time limit of a connection attempt.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// The required order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(crate) enum Order {
    /// Events of a recipient one after the other, in the order of sending.
    #[serde(rename = "per key")]
    PerKey,
    /// Any order, with concurrency.
    #[serde(rename = "any")]
    Any,
}

/// The spread of a workload's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Many recipients.
    Many,
    /// One recipient.
    Hot,
}

/// A queue library. The futures of one peer are not `Send`.
#[async_trait(?Send)]
pub(crate) trait Peer: Send + Sync {
    /// Returns the name of its crate.
    fn name(&self) -> &'static str;
    /// Returns whether the peer supports this order and spread.
    fn can(&self, order: Order) -> bool;
    /// Returns whether it is an outbox: its events are messages to a receiver. It runs W5 and W5r, and queues run the
    /// others.
    fn is_outbox(&self) -> bool {
        false
    }
    /// Installs the peer into its own database.
    async fn install(&self, url: &str) -> Result<()>;
    /// Starts a measurement with its own connections.
    async fn open(&self, url: &str, order: Order, spread: Spread) -> Result<Arc<dyn Session>>;
}

/// A peer in one measurement.
#[async_trait]
pub(crate) trait Session: Send + Sync {
    /// Removes all events.
    async fn clear(&self) -> Result<()>;
    /// Sends one event. The event is committed when the call returns.
    async fn emit(&self, event: Event) -> Result<()>;
    /// Sends events in one commit. An outbox counts them in the same commit.
    async fn emit_batch(&self, events: Vec<Event>) -> Result<()>;
    /// Starts to handle events.
    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>>;
    /// Counts the events that are not handled yet, in the peer's tables.
    async fn left(&self) -> Result<i64>;
    /// Closes its connections.
    async fn close(&self);
}

/// A consumer that handles events until it is stopped.
#[async_trait]
pub(crate) trait Consumer: Send {
    /// Waits until the events in flight are handled and acknowledged.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// The progress of the handlers.
#[derive(Debug)]
pub(crate) struct Handled {
    count: AtomicUsize,
    wanted: AtomicUsize,
    done: Notify,
    /// Whether latencies are recorded.
    pub(crate) timed: bool,
    latencies: Mutex<Vec<u64>>,
    fault: Mutex<Option<String>>,
}

impl Handled {
    pub(crate) fn new(timed: bool, wanted: usize) -> Arc<Self> {
        Arc::new(Handled {
            count: AtomicUsize::new(0),
            wanted: AtomicUsize::new(wanted),
            done: Notify::new(),
            timed,
            latencies: Mutex::default(),
            fault: Mutex::default(),
        })
    }

    /// Records that these events are handled and committed now.
    pub(crate) fn committed(&self, events: &[Event]) {
        match self.timed {
            true => self.stamp(events.iter().map(Event::sent_us)),
            false => self.add(events.len()),
        }
    }

    /// Records the number of handled events, without latencies.
    pub(crate) fn add(&self, events: usize) {
        let count = self.count.fetch_add(events, Ordering::SeqCst) + events;
        if count >= self.wanted.load(Ordering::SeqCst) {
            self.done.notify_one();
        }
    }

    /// Records now as the commit time of events with these send times, in microseconds since 1970.
    pub(crate) fn stamp(&self, sent_us: impl Iterator<Item = u64>) {
        let now = now_us();
        let latencies: Vec<u64> = sent_us.map(|sent| now.saturating_sub(sent)).collect();
        let count = latencies.len();
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).extend(latencies);
        self.add(count);
    }

    /// Records an error of a handler. Only the first error is kept.
    pub(crate) fn fault(&self, fault: impl std::fmt::Display) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.to_string());
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sets the number of events, if it is not known at the start.
    pub(crate) fn want(&self, events: usize) {
        self.wanted.store(events, Ordering::SeqCst);
        self.add(0);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until all events are handled. Returns false after the time limit.
    pub(crate) async fn all(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.done.notified()).await.is_ok()
    }

    /// Returns the recorded latencies in microseconds.
    pub(crate) fn latencies(&self) -> Vec<u64> {
        std::mem::take(&mut self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The connections of a measurement, in this crate's sqlx and in the version of older peers.
macro_rules! pools {
    ($name:ident, $sqlx:ident, $open:ident) => {
        pub(crate) struct $name {
            pub(crate) sending: $sqlx::PgPool,
            pub(crate) consuming: $sqlx::PgPool,
        }

        impl $name {
            pub(crate) async fn open(url: &str, consuming: u32) -> Result<Self> {
                Ok($name { sending: $open(url, SENDING_CONNECTIONS).await?, consuming: $open(url, consuming).await? })
            }

            pub(crate) async fn close(&self) {
                self.sending.close().await;
                self.consuming.close().await;
            }
        }

        impl Drop for $name {
            /// Closes the pools. The rest of an interrupted measurement gets no connection, so its database can be
            /// removed.
            fn drop(&mut self) {
                drop(self.sending.close());
                drop(self.consuming.close());
            }
        }

        /// Opens a pool with all its connections.
        pub(crate) async fn $open(url: &str, connections: u32) -> Result<$sqlx::PgPool> {
            let options = $sqlx::postgres::PgPoolOptions::new().max_connections(connections);
            Ok(options.min_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).connect(url).await?)
        }
    };
}

pools!(Pools, sqlx, pool);
pools!(OlderPools, sqlx8, older_pool);
