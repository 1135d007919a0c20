//! Metrics of peers. A timer sets the gauges, so that an idle peer exports them too.

use metrics::{counter, gauge};

use crate::instrument::instruments;
use crate::peer::stream::facts::EndReason;

const PEER: &str = "peer";
const NONE: &[f64] = &[];

instruments! {
    /// All instruments of peers.
    EVENTS = "eventbox_peer_events_total", Counter, "{event}", ["peer", "port"], NONE,
        "Events of a peer: port `in` from eventboxes to the outside, `out` from the outside into eventboxes, `err` not \
         decoded, mapped or emitted";
    BYTES = "eventbox_peer_bytes_total", Counter, "By", ["peer", "direction"], NONE,
        "Bytes of a peer on the wire: direction `send` or `recv`";
    DUPLICATES = "eventbox_peer_duplicates_total", Counter, "{event}", ["peer"], NONE,
        "Events that arrived again and changed nothing";
    STREAMS = "eventbox_peer_streams", Gauge, "{stream}", ["peer"], NONE,
        "Open streams of a peer in this process";
    STARTS = "eventbox_peer_stream_starts_total", Counter, "{stream}", ["peer"], NONE,
        "Streams that began";
    ENDS = "eventbox_peer_stream_ends_total", Counter, "{stream}", ["peer", "reason"], NONE,
        "Streams that ended, by reason";
    BREAKERS = "eventbox_peer_breakers_open", Gauge, "{breaker}", ["peer", "scope"], NONE,
        "Breakers that are not closed: scope `stream`, or `flow` for the whole peer";
    TRANSITIONS = "eventbox_peer_breaker_transitions_total", Counter, "{transition}", ["peer", "scope", "to"], NONE,
        "Breakers that opened or closed";
    CONNECTED = "eventbox_peer_connected", Gauge, "{connection}", ["peer"], NONE,
        "Connections of a client, or sockets of a server, that are established";
    ATTEMPTS = "eventbox_peer_connect_attempts_total", Counter, "{attempt}", ["peer", "outcome"], NONE,
        "Attempts to connect: outcome `connected` or `failed`";
    ACKS = "eventbox_peer_acks_total", Counter, "{event}", ["peer"], NONE,
        "Events that the other side has acknowledged";
    FAILS = "eventbox_peer_fails_total", Counter, "{event}", ["peer"], NONE,
        "Events that were not delivered, and are sent again";
    REFUSALS = "eventbox_peer_refusals_total", Counter, "{event}", ["peer"], NONE,
        "Events that the other side refuses for good; they go into the quarantine";
    UNROUTABLE = "eventbox_peer_unroutable_total", Counter, "{event}", ["peer"], NONE,
        "Events for a stream that is unknown or closed";
}

/// The metrics of one peer.
#[derive(Debug, Clone)]
pub(super) struct PeerMetrics {
    peer: String,
}

/// A place where events are counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Port {
    In,
    Out,
    Err,
}

impl Port {
    fn word(self) -> &'static str {
        match self {
            Port::In => "in",
            Port::Out => "out",
            Port::Err => "err",
        }
    }
}

impl PeerMetrics {
    /// Makes the metrics, and the counters with 0.
    pub(super) fn new(peer: &str) -> Self {
        let metrics = PeerMetrics { peer: peer.to_owned() };
        [Port::In, Port::Out, Port::Err].into_iter().for_each(|port| metrics.events(port, 0));
        metrics.sent(0);
        metrics.received(0);
        for name in [STARTS, DUPLICATES, ACKS, FAILS, REFUSALS, UNROUTABLE] {
            metrics.count(name, 0);
        }
        metrics.gauges(0, 0, 0, false);
        metrics
    }

    fn count(&self, name: &'static str, by: usize) {
        counter!(name, PEER => self.peer.clone()).increment(by as u64);
    }

    pub(super) fn events(&self, port: Port, count: usize) {
        counter!(EVENTS, PEER => self.peer.clone(), "port" => port.word()).increment(count as u64);
    }

    pub(super) fn duplicates(&self, count: usize) {
        self.count(DUPLICATES, count);
    }

    pub(super) fn sent(&self, bytes: usize) {
        counter!(BYTES, PEER => self.peer.clone(), "direction" => "send").increment(bytes as u64);
    }

    pub(super) fn received(&self, bytes: usize) {
        counter!(BYTES, PEER => self.peer.clone(), "direction" => "recv").increment(bytes as u64);
    }

    pub(super) fn started(&self) {
        self.count(STARTS, 1);
    }

    pub(super) fn ended(&self, reason: &EndReason) {
        counter!(ENDS, PEER => self.peer.clone(), "reason" => reason.word()).increment(1);
    }

    pub(super) fn acknowledged(&self, count: usize) {
        self.count(ACKS, count);
    }

    pub(super) fn failed(&self, count: usize) {
        self.count(FAILS, count);
    }

    pub(super) fn refused(&self) {
        self.count(REFUSALS, 1);
    }

    pub(super) fn unroutable(&self, count: usize) {
        self.count(UNROUTABLE, count);
    }

    pub(super) fn attempted(&self, is_connected: bool) {
        let outcome = if is_connected { "connected" } else { "failed" };
        counter!(ATTEMPTS, PEER => self.peer.clone(), "outcome" => outcome).increment(1);
    }

    pub(super) fn transition(&self, scope: &'static str, to: &'static str) {
        counter!(TRANSITIONS, PEER => self.peer.clone(), "scope" => scope, "to" => to).increment(1);
    }

    /// Sets the gauges.
    pub(super) fn gauges(&self, streams: usize, connected: usize, open_breakers: usize, is_flow_open: bool) {
        let set = |gauge: metrics::Gauge, value: usize| gauge.set(crate::instrument::whole(value));
        set(gauge!(STREAMS, PEER => self.peer.clone()), streams);
        set(gauge!(CONNECTED, PEER => self.peer.clone()), connected);
        set(gauge!(BREAKERS, PEER => self.peer.clone(), "scope" => "stream"), open_breakers);
        set(gauge!(BREAKERS, PEER => self.peer.clone(), "scope" => "flow"), usize::from(is_flow_open));
    }
}
