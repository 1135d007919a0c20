//! A client of Chip Ingress: sends events from memory, in batches, over gRPC. It uses no database.
//!
//! A [`BatchClient`] queues events in front of a [`Transport`]. It numbers them, splits requests by size, isolates the
//! event that a server refuses, and calls back exactly once for each event. A breaker stops requests while the
//! destination fails.
//!
//! # What a failure means
//!
#![doc = include_str!("answer/retry_classes.md")]

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod instruments;
pub(crate) mod metrics;
pub(crate) mod transport;

pub use crate::room::MAX_QUEUE_BYTES;
pub use answer::outcome::{EventErrorCode, RetryClass, SendError, error_code};
pub use answer::retry_hint::MAX_RETRY_AFTER;
pub use client::batch::{ABANDON_GRACE, BatchClient};
pub use client::breaker::{
    BreakerConfig, BreakerReport, BreakerState, FLAP_OPENINGS, FLAP_WINDOW, MAX_BREAKER_ERROR_BYTES,
};
pub use client::config::{BatchConfig, EmptyResults, FRAMING_RESERVE_BYTES, MIN_REQUEST_BYTES};
pub use client::queue::{Callback, SendOutcome};
pub use client::seqnum::MAX_SEQUENCES;
pub use credentials::auth::{
    AUTH_HEADER, Auth, AuthError, AuthSettings, LazySigner, MIN_HEADERS_TTL, RotatingAuth, SIGNER_TIMEOUT, Signer,
};
pub use credentials::headers::{HeaderProvider, resource_headers};
#[cfg(any(feature = "ingress", feature = "shards"))]
pub(crate) use credentials::pem::Pem;
pub use credentials::pem::{MAX_PEM_BYTES, TLS_READ_TIMEOUT, TLS_RELOAD_INTERVAL};
pub use credentials::tls::Tls;
pub use error::{AuthConfigError, ConfigError};
pub use instruments::INSTRUMENTS;
pub use transport::Transport;
pub use transport::connection::RECONNECT_AFTER;
pub use transport::grpc::{
    CONNECT_TIMEOUT, Destination, GrpcConfig, GrpcTransport, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, KeepAlive,
    MAX_RESPONSE_BYTES, TCP_KEEPALIVE, UNARY_ATTEMPTS,
};
pub use transport::noop::NoopTransport;

/// The version of tonic whose types stand in this API: `Status` and `Code` of a [`Transport`] and of a [`SendError`].
///
/// Use it instead of a dependency of your own, so that both are the same version.
pub use tonic;
