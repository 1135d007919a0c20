//! What the gRPC servers of this library share: connections, TLS, credentials of callers, limits and the stop.

mod auth;
mod connection;
mod error;
mod listen;
mod listening;
mod running;
mod size;
mod tls;

#[cfg(feature = "shards")]
pub(crate) use auth::Caller;
pub(crate) use auth::Gate;
pub use auth::{Credential, DEFAULT_MAX_AGE, MAX_CLOCK_SKEW, SIGNED_HEADER, parse_public_key};
#[cfg(feature = "ingress")]
pub(crate) use connection::Cut;
pub(crate) use connection::Incoming;
pub use connection::MAX_CONNECTIONS;
pub use error::{InvalidPublicKey, ServeError};
pub use listen::Listen;
pub(crate) use listening::Listening;
pub use listening::MAX_STREAMS_PER_CONNECTION;
pub(crate) use running::Running;
pub(crate) use size::SizeRefusal;
#[cfg(feature = "ingress")]
pub(crate) use size::{larger_than_max, reworded};
pub use tls::{MAX_TLS_HANDSHAKE, Tls};
