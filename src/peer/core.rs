//! What all streams of one peer share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::eventbox::{Event, STREAM_KIND};
use crate::peer::boxes::door::Door;
use crate::peer::connect::connector::Connector;
use crate::peer::connect::flow::{Flow, StreamBreaker};
use crate::peer::connect::links::Links;
use crate::peer::declare::limits::PeerLimits;
use crate::peer::declare::mapping::{ArrivalFields, Mapping, Undelivered};
use crate::peer::declare::reconnect::{Attempts, Reconnect};
use crate::peer::declare::template::Template;
use crate::peer::framing::{CodecSpec, InterceptorSpec};
use crate::peer::metrics::PeerMetrics;
use crate::peer::stream::delivery::Delivery;
use crate::peer::stream::facts::{StreamFacts, StreamSignal};
use crate::peer::stream::id::StreamId;
use crate::recipient::Recipient;
use crate::runtime::Attended;

/// A peer as it was declared.
pub(super) struct Declared {
    pub(super) id: String,
    pub(super) connector: Arc<dyn Connector>,
    /// `None` where values travel as they are.
    pub(super) codec: Option<CodecSpec>,
    /// In the order of bytes that arrive; bytes that leave pass them in the opposite order.
    pub(super) interceptors: Vec<InterceptorSpec>,
    pub(super) mapping: Mapping,
    pub(super) reconnect: Reconnect,
    pub(super) limits: PeerLimits,
    /// Peers that open a stream for each stream of this one.
    pub(super) links: Vec<String>,
}

/// A running peer.
pub(super) struct Core {
    pub(super) declared: Declared,
    pub(super) door: Arc<dyn Door>,
    pub(super) attended: Arc<Attended>,
    pub(super) metrics: PeerMetrics,
    pub(super) flow: Flow,
    pub(super) signals: broadcast::Sender<StreamSignal>,
    pub(super) linked: Arc<Links>,
    /// Nothing new is read or accepted.
    pub(super) stopping: CancellationToken,
    /// Streams send no more: parent of what closes each stream.
    pub(super) drained: CancellationToken,
    streams: Mutex<HashMap<StreamId, OpenStream>>,
    status: Mutex<Status>,
    connections: AtomicUsize,
}

/// An open stream of this process.
#[derive(Clone)]
pub(super) struct OpenStream {
    pub(super) delivery: Arc<Delivery>,
    pub(super) breaker: StreamBreaker,
}

/// What a peer knows of its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) attempts: Attempts,
    /// The last error, until a connection stands.
    pub(super) error: Option<String>,
    /// The last error of a batch that was not delivered.
    pub(super) send_error: Option<String>,
    /// Set when the peer tries no more.
    pub(super) gave_up: bool,
    /// Set when nothing will ever come again.
    pub(super) is_finished: bool,
}

impl Core {
    pub(super) fn new(
        declared: Declared,
        door: Arc<dyn Door>,
        attended: Arc<Attended>,
        signals: broadcast::Sender<StreamSignal>,
        linked: Arc<Links>,
        stopping: CancellationToken,
    ) -> Self {
        let metrics = PeerMetrics::new(&declared.id);
        let flow = Flow::new(&declared.limits, metrics.clone());
        Core {
            declared,
            door,
            attended,
            metrics,
            flow,
            signals,
            linked,
            stopping,
            drained: CancellationToken::new(),
            streams: Mutex::default(),
            status: Mutex::default(),
            connections: AtomicUsize::new(0),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.declared.id
    }

    /// Returns the kind of the streams' eventboxes.
    pub(super) fn kind(&self) -> String {
        kind_of(self.id())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, OpenStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a stream, unless it is registered or too many are. Returns the number of streams when there are too
    /// many.
    pub(super) fn register(&self, id: &StreamId, stream: OpenStream) -> Result<(), Registered> {
        let mut streams = self.lock();
        if streams.contains_key(id) {
            return Err(Registered::Already);
        }
        if streams.len() >= self.declared.limits.streams.get() {
            return Err(Registered::TooMany);
        }
        streams.insert(id.clone(), stream);
        Ok(())
    }

    pub(super) fn unregister(&self, id: &StreamId) {
        self.lock().remove(id);
    }

    pub(super) fn stream(&self, id: &str) -> Option<OpenStream> {
        self.lock().get(id).cloned()
    }

    /// Returns the open streams.
    pub(super) fn streams(&self) -> Vec<(StreamId, OpenStream)> {
        self.lock().iter().map(|(id, stream)| (id.clone(), stream.clone())).collect()
    }

    /// Returns the eventbox of an open stream, if there is one.
    pub(super) fn any_stream(&self) -> Option<Recipient> {
        self.lock().values().next().map(|stream| stream.delivery.recipient().clone())
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update_status(&self, update: impl FnOnce(&mut Status)) {
        update(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn connection_began(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_ended(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of connections that stand.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sets the gauges, also of an idle peer.
    pub(super) fn export(&self) {
        let streams = self.streams();
        let open_breakers = streams.iter().filter(|(_, stream)| stream.breaker.is_open()).count();
        self.metrics.gauges(streams.len(), self.connections(), open_breakers, self.flow.is_open());
    }

    /// Returns what becomes of events of a stream that is gone.
    pub(super) fn undelivered(&self) -> Undelivered {
        let by_default =
            if self.declared.connector.keeps_stream_ids() { Undelivered::Keep } else { Undelivered::DeadLetter };
        self.declared.mapping.undelivered.clone().unwrap_or(by_default)
    }

    /// Returns the event that tells a recipient of a signal, if the mapping names one.
    pub(super) fn signal_event(
        &self,
        template: Option<&Template>,
        stream: &StreamId,
        facts: &StreamFacts,
        name: &str,
        value: String,
    ) -> Option<(Recipient, Event)> {
        let fields = ArrivalFields { peer: self.id(), stream, facts, own: &[], json: None };
        match template?.fill(&fields) {
            Ok(to) => Some((to, Event::new(value).named(format!("{}:{stream}:{name}", self.id())))),
            Err(problem) => {
                tracing::warn!(peer = self.id(), %stream, problem, "the mapping names no recipient");
                None
            }
        }
    }
}

/// Why a stream was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Registered {
    Already,
    TooMany,
}

/// Returns the kind of the eventboxes of a peer's streams.
pub(super) fn kind_of(peer: &str) -> String {
    format!("{STREAM_KIND}{peer}")
}
