//! Chip Ingress: a sink that publishes, and a source that is the service.
//!
//! [`ChipIngress`] publishes what is in the box of a stream, with the client of
//! [`chip`](crate::chip). [`ChipIngressServer`] (feature `ingress`) is the gRPC service as a door into eventboxes.

mod password;
mod sink;
#[cfg(feature = "ingress")]
mod source;
#[cfg(feature = "ingress")]
mod taking;

pub use password::MAX_PASSWORD_BYTES;
pub use sink::{ChipIngress, ChipIngressConfig, Wrap};
#[cfg(feature = "ingress")]
pub use source::{ChipIngressServer, ChipIngressServerConfig, ValueForm};
#[cfg(feature = "ingress")]
pub use taking::{EVENTS_TOGETHER, WAITING_CALLS};
