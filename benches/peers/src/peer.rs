//! What a workload asks of a peer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::Notify;

use crate::event::{Event, now_us};

/// Connections of those who send: one for each task of W1.
const SENDING_CONNECTIONS: u32 = 16;

/// Handlers that run at a time, where a peer runs a handler for each event.
pub(crate) const HANDLERS: usize = 16;

/// Connections of a consumer: one for each handler, and some for what a peer does beside them.
pub(crate) const CONSUMING_CONNECTIONS: u32 = 24;

/// How long a connection may take.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked of the order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(crate) enum Order {
    /// The events of a recipient one after the other, as they were sent.
    #[serde(rename = "per key")]
    PerKey,
    /// As they come, many at a time.
    #[serde(rename = "any")]
    Any,
}

/// How the events of a workload are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Over many recipients.
    Many,
    /// To one recipient.
    Hot,
}

/// A queue of the registry. (The futures of one of them cannot be sent to other threads.)
#[async_trait(?Send)]
pub(crate) trait Peer: Send + Sync {
    /// The name of its crate.
    fn name(&self) -> &'static str;
    /// Whether it can do this at all.
    fn can(&self, order: Order) -> bool;
    /// Installs what it needs into a database of its own.
    async fn install(&self, url: &str) -> Result<()>;
    /// Begins a measurement, with connections of its own.
    async fn open(&self, url: &str, order: Order, spread: Spread) -> Result<Arc<dyn Session>>;
}

/// A peer in one measurement.
#[async_trait]
pub(crate) trait Session: Send + Sync {
    /// Removes all events.
    async fn clear(&self) -> Result<()>;
    /// Sends an event; it is committed when this returns.
    async fn emit(&self, event: Event) -> Result<()>;
    /// Sends events in one commit.
    async fn emit_batch(&self, events: Vec<Event>) -> Result<()>;
    /// Begins to handle events.
    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>>;
    /// How many events are not handled yet, as the peer's tables say.
    async fn left(&self) -> Result<i64>;
    /// Closes its connections.
    async fn close(&self);
}

/// What handles events until it is stopped.
#[async_trait]
pub(crate) trait Consumer: Send {
    /// Waits for what is under way, and for the peer to note it.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// What was handled so far.
#[derive(Debug)]
pub(crate) struct Handled {
    count: AtomicUsize,
    wanted: AtomicUsize,
    done: Notify,
    /// Whether latencies are wanted.
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

    /// Notes that these events are handled, and committed now.
    pub(crate) fn committed(&self, events: &[Event]) {
        match self.timed {
            true => self.stamp(events.iter().map(Event::sent_us)),
            false => self.add(events.len()),
        }
    }

    /// Notes that so many events are handled, whose latency nobody wants.
    pub(crate) fn add(&self, events: usize) {
        let count = self.count.fetch_add(events, Ordering::SeqCst) + events;
        if count >= self.wanted.load(Ordering::SeqCst) {
            self.done.notify_one();
        }
    }

    /// Notes that events that were sent at these times, in microseconds since 1970, are committed now.
    pub(crate) fn stamp(&self, sent_us: impl Iterator<Item = u64>) {
        let now = now_us();
        let latencies: Vec<u64> = sent_us.map(|sent| now.saturating_sub(sent)).collect();
        let count = latencies.len();
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).extend(latencies);
        self.add(count);
    }

    /// Notes what went wrong in a handler; the first fault is kept.
    pub(crate) fn fault(&self, fault: impl std::fmt::Display) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.to_string());
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says how many events there are, when that is not known at the beginning.
    pub(crate) fn want(&self, events: usize) {
        self.wanted.store(events, Ordering::SeqCst);
        self.add(0);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until all are handled; answers whether they were, in time.
    pub(crate) async fn all(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.done.notified()).await.is_ok()
    }

    /// The latencies so far, in microseconds.
    pub(crate) fn latencies(&self) -> Vec<u64> {
        std::mem::take(&mut self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The connections of a measurement, of this crate's sqlx and of the one that older peers use.
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
            /// What is left of an interrupted measurement gets no connections any more, so that its database can be removed.
            fn drop(&mut self) {
                drop(self.sending.close());
                drop(self.consuming.close());
            }
        }

        /// A pool whose connections are all there.
        pub(crate) async fn $open(url: &str, connections: u32) -> Result<$sqlx::PgPool> {
            let options = $sqlx::postgres::PgPoolOptions::new().max_connections(connections);
            Ok(options.min_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).connect(url).await?)
        }
    };
}

pools!(Pools, sqlx, pool);
pools!(OlderPools, sqlx8, older_pool);
