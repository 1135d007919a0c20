//! Peers connect eventboxes to the outside: each keeps connections, and its *streams* carry events in and out.
//!
//! **A stream is a recipient.** What must go out on a stream is in the eventbox `peer.<peer>/<stream>`, and sending it
//! is a turn that consumes only what the other side has acknowledged. What comes in is emitted, under the name
//! `peer:stream:event`, to the recipient that the [`Mapping`] names; the outside gets its acknowledgement after the
//! commit. So order within a stream, at-least-once delivery, quarantine, pause and the operator's views are those of
//! every eventbox, and a crash loses nothing.
//!
//! The process that has a connection sends the events of its streams, whoever holds their shards.
//!
//! # The parts
//!
//! | Part | Task |
//! | --- | --- |
//! | [`Peers`] | starts and stops peers |
//! | [`Connector`] | knows a protocol; [`connectors`] has those of the library |
//! | [`framing`] | turns bytes into messages and back |
//! | [`Mapping`] | names the recipients of what comes in |
//! | [`Reconnect`] | says when a connection is made again |
//! | [`PeersFile`] | reads peers from a file; `eventbox peer run` runs one |
//!
//! The ideas are those of Tremor's "Peers and Streams", on eventboxes instead of channels: what Tremor keeps in memory
//! is in rows here, and breakers and signals belong to streams.

mod boxes;
mod connect;
pub mod connectors;
mod core;
mod declare;
mod error;
pub mod framing;
mod handle;
mod metrics;
mod status;
mod stream;

pub use connect::connector::{CodecNeed, Connector, Role};
pub use connect::session::Session;
pub use declare::builder::{MAX_PEER_ID_BYTES, Peer, PeersBuilder, PeersConfig};
pub use declare::describe::PeerDescription;
pub use declare::file::{ConnectorTypes, PeersFile};
pub use declare::limits::PeerLimits;
pub use declare::mapping::{Mapping, Undelivered};
pub use declare::reconnect::{Attempts, Reconnect};
pub use declare::template::Template;
pub use error::{ConnectorError, PeerError};
pub use handle::{OBSERVED_SIGNALS, Peers};
pub use metrics::INSTRUMENTS;
pub use status::{PeerState, PeerStatus};
pub use stream::Stream;
pub use stream::address::{answer_to, by_stream};
pub use stream::arrival::{Arrival, Received};
pub use stream::facts::{EndReason, StreamFacts, StreamSignal};
pub use stream::id::{MAX_STREAM_ID_BYTES, StreamId};
pub use stream::incoming::Incoming;
pub use stream::outgoing::{Batch, Outgoing, OutgoingEvent};
