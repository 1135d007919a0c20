//! Chip Ingress: a sink that publishes, and a source that is the service.
//!
//! [`ChipIngress`] (feature `emitter`) publishes what is in the box of a stream, with the client of
//! [`chip`](crate::chip). [`ChipIngressServer`] (feature `ingress`) is the gRPC service as a door into eventboxes.

#[cfg(any(feature = "emitter", feature = "ingress"))]
mod password;
#[cfg(feature = "emitter")]
mod sink;
#[cfg(feature = "ingress")]
mod source;
#[cfg(feature = "ingress")]
mod taking;

#[cfg(any(feature = "emitter", feature = "ingress"))]
pub use password::MAX_PASSWORD_BYTES;
#[cfg(feature = "emitter")]
pub use sink::{ChipIngress, ChipIngressConfig, Wrap};
#[cfg(feature = "ingress")]
pub use source::{ChipIngressServer, ChipIngressServerConfig, ValueForm};
#[cfg(feature = "ingress")]
pub use taking::{EVENTS_TOGETHER, WAITING_CALLS};
